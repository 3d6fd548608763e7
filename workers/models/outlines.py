"""Gives the layers and costs of any model by name, before it is built."""

import difflib
from functools import lru_cache

from workers.errors import ConfigError
from workers.models.geometry import Geometry, geometry
from workers.models.layers import ALEXNET, LIBRARIES, MODEL_NAMES, TIMM, TORCHVISION, Outline
from workers.models.own_code import packages
from workers.settings import ModelSettings


@lru_cache(maxsize=256)
def outline(model: ModelSettings, num_classes: int) -> Outline:
    """Returns the outline of `model` with `num_classes` outputs.

    Raises:
        ConfigError: there is no such model, its builder fails, or it is too deep for its input.
    """
    if model.file is None:
        check_name(model.name)
    if model.args and model.name in MODEL_NAMES:
        raise ConfigError(f"model.args: {model.name} has its settings below model, and takes none here; remove them")
    if model.name == ALEXNET:
        return _of_geometry(geometry(model, num_classes))
    # Imported here, because a plan of AlexNets must not load torch.
    from workers.models.measured import measured

    return measured(model, num_classes)


def check_name(name: str) -> None:
    """Raises ConfigError with the nearest names if no model is called `name`; loads a library only where needed."""
    own = MODEL_NAMES if name.startswith(LIBRARIES) or name in MODEL_NAMES else (*MODEL_NAMES, *packages())
    if name in own:
        return
    close = difflib.get_close_matches(name, own, n=1, cutoff=0.8)
    if not close:
        from workers.models.builders import library_names

        theirs = library_names(TIMM if name.startswith(TIMM) else TORCHVISION)
        if name in theirs:
            return
        asked = name if name.startswith(LIBRARIES) else f"{TORCHVISION}{name}"
        close = difflib.get_close_matches(asked, theirs, n=3, cutoff=0.0)
    raise ConfigError(
        f"model.name={name}: did you mean {' or '.join(close)}? (known: {', '.join(own)}, "
        f"{TORCHVISION}<classification model of torchvision>, {TIMM}<model of timm>)"
    )


def _of_geometry(layers: Geometry) -> Outline:
    shapes: dict[str, tuple[int, ...]] = {
        conv.name: (conv.out_channels, conv.in_channels, conv.kernel, conv.groups) for conv in layers.convs
    }
    shapes |= {linear.name: (linear.in_features, linear.out_features) for linear in layers.linears}
    parameters = {conv.name: conv.num_weights + conv.out_channels for conv in layers.convs}
    parameters |= {linear.name: linear.num_weights + linear.out_features for linear in layers.linears}
    macs = sum(conv.num_macs for conv in layers.convs) + sum(linear.num_weights for linear in layers.linears)
    neurons = sum(conv.out_channels * conv.size**2 for conv in layers.convs)
    neurons += sum(linear.out_features for linear in layers.linears)
    return Outline(shapes, layers.linears[-1].name, sum(parameters.values()), macs, neurons, parameters)
