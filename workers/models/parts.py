"""Where a net's weights lie: each in one parameter, or in the parameters of two halves.

Checkpoints, momentum, `reset`, `freeze` and `lr_scale` know the whole net's names and shapes alone. So a checkpoint
does not tell in which layout it was trained, and a member of either goes on from one of the other.
"""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from workers.models.halves import HalvedAlexNet


def parts_of(model: nn.Module) -> dict[str, tuple[nn.Parameter, ...]]:
    """Each weight by its name in checkpoints, in the net's order: the parameters that are it, one after the other."""
    if not isinstance(model, HalvedAlexNet):
        return {name: (parameter,) for name, parameter in model.named_parameters()}
    second = dict(model.second.named_parameters())
    return {name: (parameter, second[name]) for name, parameter in model.first.named_parameters()}


def saved_parts_of(model: nn.Module) -> dict[str, tuple[Tensor, ...]]:
    """All that a checkpoint keeps of a net, by name: its weights, then persistent buffers.

    Such are batch norm's running statistics: training moves them, and nothing computes them again.
    """
    saved: dict[str, tuple[Tensor, ...]] = dict(parts_of(model))
    if not isinstance(model, HalvedAlexNet):
        weights = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        saved |= {name: (value,) for name, value in model.state_dict().items() if name not in weights}
    return saved


def whole_shape(parts: Sequence[Tensor]) -> tuple[int, ...]:
    """The shape of the weight that `parts` are along its first dimension."""
    if len(parts) == 1:
        return tuple(parts[0].shape)
    return sum(len(part) for part in parts), *parts[0].shape[1:]


def beside(parts: Sequence[Tensor], whole: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Each part and the view of `whole` that corresponds to it, to copy one into the other."""
    if len(parts) == 1:
        return iter([(parts[0], whole)])
    return zip(parts, whole.split_with_sizes([len(part) for part in parts]), strict=True)
