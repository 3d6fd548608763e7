"""Names torch's first-order optimizers and their arguments, and checks settings against them.

It loads torch only for another optimizer than plain sgd, so that a plan of 2012's nets does not.
"""

import difflib
import inspect
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workers.errors import ConfigError
from workers.settings import OptimizerSettings

if TYPE_CHECKING:
    from torch.optim import Optimizer

SGD = "sgd"
# Those of which torch has a fused form; only these skip an update without a wait for the device.
FUSED = ("adagrad", "adam", "adamw", SGD)
# What torch.optim has besides, and why it does not fit.
_UNFIT = {
    "lbfgs": "it computes the loss several times in an update",
    "muon": "it takes matrices alone, and nets have biases and convolutions",
    "sparseadam": "it takes sparse gradients alone, and nets' gradients are dense",
}
# Arguments that have settings of their own, or that say how torch computes.
_NOT_OWN = {"params", "lr", "weight_decay", "maximize", "foreach", "fused", "capturable", "differentiable"}
_OF_SGD = ("momentum", "nesterov")


def optimizer_class(name: str) -> "type[Optimizer]":
    """Returns torch's class; raises ConfigError with the nearest name if torch has no such first-order optimizer."""
    from torch import optim

    every: dict[str, type[Optimizer]] = {one.lower(): getattr(optim, one) for one in optim.__all__ if one[0].isupper()}
    known = sorted(every.keys() - _UNFIT.keys() - {"optimizer"})
    if name in known:
        return every[name]
    if (why := _UNFIT.get(name.lower())) is not None:
        raise ConfigError(f"optimizer.name={name}: {why}; choose one of {', '.join(known)}")
    raise ConfigError(f"optimizer.name={name}: no such optimizer; {_choices(name, known)}")


def arguments(name: str) -> dict[str, Any]:
    """Returns the arguments that `optimizer.args` may hold, with torch's defaults."""
    others = {*_NOT_OWN, *(_OF_SGD if name == SGD else ())}
    parameters = inspect.signature(optimizer_class(name)).parameters
    return {key: parameter.default for key, parameter in parameters.items() if key not in others}


def given_arguments(settings: OptimizerSettings) -> dict[str, Any]:
    """Returns what `settings` say, as torch takes it."""
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.args.items()}
    own = {"momentum": settings.momentum, "nesterov": settings.nesterov} if settings.name == SGD else {}
    return {"lr": settings.lr, **own, **given}


def check_optimizer(settings: OptimizerSettings) -> None:
    """Raises ConfigError if torch has no such optimizer, or if it would refuse or ignore a setting."""
    if settings.name == SGD and not settings.args:
        return
    made, own = optimizer_class(settings.name), arguments(settings.name)
    for name, value in settings.args.items():
        if name not in own:
            raise ConfigError(f"optimizer.args.{name}: {settings.name} takes no such argument; {_choices(name, own)}")
        if not _is_like(value, own[name]):
            raise ConfigError(f"optimizer.args.{name}={_shown(value)}: give a value like {_shown(own[name])}")
    decays = max(settings.weight_decay, *settings.layer_decay.values(), 0.0)
    if decays and "weight_decay" not in inspect.signature(made).parameters:
        give = "give optimizer.weight_decay=0 and optimizer.layer_decay={}"
        raise ConfigError(f"optimizer.weight_decay={settings.weight_decay}: {settings.name} decays no weights; {give}")
    import torch

    try:
        made([torch.zeros(1, requires_grad=True)], **given_arguments(settings))
    except ValueError as error:
        raise ConfigError(f"optimizer.args: {settings.name} refuses them ({error})") from error


def _is_like(value: object, default: object) -> bool:
    if isinstance(default, tuple):
        values = value if isinstance(value, list | tuple) else ()
        return len(values) == len(default) and all(map(_is_like, values, default))
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    return (default is None and value is None) or (isinstance(value, int | float) and math.isfinite(value))


def _shown(value: object) -> str:
    return json.dumps(value).strip('"')


def _choices(name: str, known: Mapping[str, Any] | list[str]) -> str:
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    names = f"known: {', '.join(sorted(known)) or 'none'}"
    return f"did you mean {close[0]}? ({names})" if close else names
