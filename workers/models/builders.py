"""Nets that others' builders make: torchvision's, timm's, an installed package's, or a function in a user's file.

A builder draws the weights while it builds, from torch's global generator, so weights are drawn by building again.
"""

import difflib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from itertools import chain
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from workers.errors import CheckFailed, ConfigError
from workers.models.layers import LIBRARIES, TIMM, TORCHVISION
from workers.models.own_code import code_of, imported, packages
from workers.settings import ModelSettings

# Septet gives these itself, or they would load weights, or make something else than a classifier of colour images.
_TAKEN = {
    *("aux_logits", "cache_dir", "checkpoint_path", "features_only", "img_size", "in_chans", "init_weights"),
    *("input_size", "num_classes", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "progress", "self"),
    "weights",
}
# torchvision's with auxiliary classifiers, which warn unless they are told to draw from a truncated normal (slow).
# Their published weights are from a framework with pixels in [-1, 1].
INCEPTIONS = tuple(f"{TORCHVISION}{name}" for name in ("googlenet", "inception_v3"))
_LONGEST_SAID = 160
_recipes: WeakKeyDictionary[nn.Module, "partial[nn.Module]"] = WeakKeyDictionary()


def library_names(prefix: str) -> list[str]:
    """Returns the names of a library's nets, with its prefix; raises ConfigError if timm is not installed."""
    library = _library(prefix)
    names = library.list_models() if prefix == TIMM else library.list_models(module=library)
    return [prefix + name for name in names]


def _library(name: str) -> Any:
    """Returns timm or torchvision's models; imported here, because other nets do not need them."""
    if not name.startswith(TIMM):
        from torchvision import models

        return models
    try:
        import timm
    except ImportError as error:
        raise ConfigError("model.name=timm/…: timm is not installed; pip install 'septet[timm]'") from error
    return timm


def _of_library(name: str, **given: Any) -> nn.Module:
    library, short = _library(name), name.rpartition("/")[2]
    options = {"aux_logits": True, "init_weights": True} if name in INCEPTIONS else {}
    make = library.create_model if name.startswith(TIMM) else partial(library.get_model, weights=None)
    net: nn.Module = make(short, **options, **given)
    return net


def construct(model: ModelSettings, num_classes: int) -> nn.Module:
    """Builds a net without trained weights; torch's global generator is unchanged.

    Raises ConfigError if the builder fails or makes no net that can be trained, CheckFailed if its code is not the
    planned one.
    """
    recipe = partial(_built, model, num_classes)
    with torch.random.fork_rng(devices=[]):
        module = recipe()
    _recipes[module] = recipe
    return module


def is_one(module: nn.Module) -> bool:
    """Returns whether `construct` built `module`."""
    return module in _recipes


def initialise(module: nn.Module, seed: int) -> None:
    """Draws all weights from `seed` as the builder does, and resets running statistics.

    torch's global generator is unchanged. Raises ConfigError if a user's builder draws other weights each time.
    """
    recipe = _recipes[module]
    model: ModelSettings = recipe.args[0]
    drawn = _drawn(recipe, seed)
    again = _drawn(recipe, seed) if model.code else drawn
    if unlike := [name for name, value in drawn.items() if not torch.equal(value, again[name])]:
        raise ConfigError(
            f"{_where(model)}: draws other numbers for {unlike[0]} each time; draw from torch's global generator"
        )
    module.load_state_dict(drawn)


def _drawn(recipe: "partial[nn.Module]", seed: int) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed % 2**63)
        return recipe().state_dict()


def arguments(model: ModelSettings) -> set[str]:
    """Returns the names that `model.args` may have, as far as the class of a library's net tells."""
    return _class_parameters(model.name)[0] - _TAKEN if model.name.startswith(LIBRARIES) else set()


@cache
def _class_parameters(name: str) -> tuple[set[str], bool]:
    """Returns the names of the parameters of a library's net, and whether there may be others."""
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        kinds = type(_of_library(name)).__mro__
    own = [_parameters(kind) for kind in kinds[: kinds.index(nn.Module)] if "__init__" in vars(kind)]
    # torchvision's that take any others ignore them.
    return set().union(*(names for names, _ in own)), name.startswith(TIMM) and any(others for _, others in own)


def _parameters(function: Callable[..., Any]) -> tuple[set[str], bool]:
    """Returns the names of a function's parameters, and whether it takes others by name."""
    every = inspect.signature(function).parameters.values()
    named = {one.name for one in every if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)}
    return named, any(one.kind is one.VAR_KEYWORD for one in every)


def _built(model: ModelSettings, num_classes: int) -> nn.Module:
    given: dict[str, Any] = {"num_classes": num_classes}
    with _in_one_line(_where(model)), imported(model) if model.code and model.file else nullcontext() as file:
        if model.name.startswith(LIBRARIES):
            # A net of torchvision is built once more only where that matters.
            looks = model.args or model.name.startswith(TIMM)
            known, others = _class_parameters(model.name) if looks else (set[str](), False)
            make: Callable[..., nn.Module] = partial(_of_library, model.name)
            given |= {"img_size": model.input_size} if "img_size" in known else {}
        else:
            make = _function(model, file)
            known, others = _parameters(make)
            given["input_size"] = model.input_size
            if lacking := [name for name in given if name not in known and not others]:
                raise ConfigError(f"takes no {lacking[0]}; it is called with num_classes, input_size and model.args")
        for name in model.args:
            _check_argument(model, name, known - _TAKEN, others=others)
        module: nn.Module = make(**given, **model.args)
        if model.code:
            _check(module)
    return module


def _function(model: ModelSettings, file: ModuleType | None) -> Any:
    if file is not None:
        if callable(function := getattr(file, model.function, None)):
            return function
        callables = [name for name, value in vars(file).items() if callable(value)]
        near = difflib.get_close_matches(model.function, callables, n=1)
        missing = f"define {model.function}(num_classes, input_size), or give another"
        hint = f"did you mean {near[0]}?" if near else missing
        raise ConfigError(f"model.function={model.function}: {model.file} has no such function; {hint}")
    if model.file is not None:
        raise ConfigError("a configuration's code runs only with --trust-code")
    if (found := code_of(model)) != model.code:
        raise CheckFailed(f"model.name={model.name}: is of {found} here, planned was {model.code}: install that")
    return packages()[model.name].load()


def _check_argument(model: ModelSettings, name: str, known: set[str], *, others: bool) -> None:
    if name in _TAKEN:
        raise ConfigError(f"model.args.{name}: Septet gives it, or has no use for it; remove it")
    if name not in known and not others:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        names = ", ".join(sorted(known)) or "none"
        raise ConfigError(f"model.args.{name}: {model.name} takes no such argument; {hint}(known: {names})")


def _check(module: object) -> None:
    """Raises ConfigError if what a user's builder made is no net that can be trained and saved."""
    if not isinstance(module, nn.Module):
        raise ConfigError(f"returns a {type(module).__name__}, not a torch.nn.Module")
    named: dict[Tensor, str] = {}
    for name, value in chain(module.named_parameters(remove_duplicate=False), module.named_buffers()):
        if is_lazy(value):
            raise ConfigError(f"{name} has no shape yet; give its layer the size of its input")
        if value.device != torch.get_default_device():
            raise ConfigError(f"{name} is on {value.device}; leave all on the CPU, from where Septet moves it")
        if isinstance(value, nn.Parameter) and value.dtype != torch.float32:
            raise ConfigError(f"{name} is {value.dtype}; make it torch.float32")
        if named.setdefault(value, name) != name:
            raise ConfigError(f"{named[value]} and {name} are one; give each layer its own")
    if next(module.parameters(), None) is None:
        raise ConfigError("has no parameters to train")


def _where(model: ModelSettings) -> str:
    return f"model.file={model.file}, {model.function}" if model.file else f"model.name={model.name}"


@contextmanager
def _in_one_line(where: str) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise error if str(error).startswith("model.") else ConfigError(f"{where}: {error}") from None
    except CheckFailed:
        raise
    # Others' code may raise anything, and a script may call sys.exit.
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{where}: fails ({said(error)})") from error


def said(error: BaseException) -> str:
    """Returns an error's type and the start of its text, on one line."""
    return f"{type(error).__name__}: {error}".strip().partition("\n")[0][:_LONGEST_SAID]
