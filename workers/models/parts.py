"""Maps a net's weights to its parameters: one parameter each, or one in each of two halves.

Checkpoints, momentum, `reset`, `freeze` and `lr_scale` use only the whole net's names and shapes. So a checkpoint is
the same in both layouts, and a member of either can start from a checkpoint of the other.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from workers.models.halves import HalvedAlexNet


def parts_of(model: nn.Module) -> dict[str, tuple[nn.Parameter, ...]]:
    """Returns the parameters that make up each weight, by its name in checkpoints, in the net's order."""
    if not isinstance(model, HalvedAlexNet):
        return {name: (parameter,) for name, parameter in model.named_parameters()}
    second = dict(model.second.named_parameters())
    return {name: (parameter, second[name]) for name, parameter in model.first.named_parameters()}


def saved_parts_of(model: nn.Module) -> dict[str, tuple[Tensor, ...]]:
    """Returns all tensors of a net that a checkpoint stores, by name: its weights, then persistent buffers.

    Such buffers are batch norm's running statistics, which cannot be computed from the weights.
    """
    saved: dict[str, tuple[Tensor, ...]] = dict(parts_of(model))
    if not isinstance(model, HalvedAlexNet):
        weights = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        saved |= {name: (value,) for name, value in model.state_dict().items() if name not in weights}
    return saved


def whole_shape(parts: Sequence[Tensor]) -> tuple[int, ...]:
    """Returns the shape of the weight that `parts` make up along its first dimension."""
    if len(parts) == 1:
        return tuple(parts[0].shape)
    return sum(len(part) for part in parts), *parts[0].shape[1:]


def beside(parts: Sequence[Tensor], whole: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields each part with its view of `whole`, to copy one into the other."""
    if len(parts) == 1:
        return iter([(parts[0], whole)])
    return zip(parts, whole.split_with_sizes([len(part) for part in parts]), strict=True)


def fill(saved: Mapping[str, Sequence[Tensor]], tensors: Mapping[str, Tensor | np.ndarray]) -> None:
    """Copies the tensor of each name in `saved` into its parts."""
    with torch.no_grad():
        for name, parts in saved.items():
            for part, value in beside(parts, torch.as_tensor(tensors[name])):
                part.copy_(value)
