"""Says what an operator asks of a GPU: bytes, FLOP and launches, from the tensors that it is called with."""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# torch's kernels over lists of tensors (`multi_tensor_apply`) take 320 chunks of 65,536 elements a launch.
_ELEMENTS_A_LAUNCH = 320 * 65_536
_LISTS = ("_foreach_", "_fused_")
_PACKAGES = frozenset({"workers", "benchmarks", "tests"})
# Their frames stand between an operator and the code that called it.
_COUNTERS = ("operations.py", "no_gpu.py")


class Kind(StrEnum):
    """Sorts the events of a step, in the order in which the host issues them."""

    kernel = "kernel"
    to_device = "to device"
    wait = "wait"


@dataclass(frozen=True)
class Event:
    """One thing that the host issues.

    Attributes:
        name: aten's operator; convolutions' gradients are split, as they are computed apart.
        where: `module.function` of the nearest frame of the packages `workers` and `benchmarks`.
        bytes_read, bytes_written: of each tensor once; for a copy to the device, `bytes_read` crosses the link.
        flop: of matrix products and convolutions; 0 for others.
        dtype: of the product's operands, or of the first output.
        launches: kernels; 0 for a wait.
        pinned: whether a copy's source is pinned; such a copy, asked not to block, lets the host go on.
    """

    kind: Kind
    name: str
    where: str
    bytes_read: int = 0
    bytes_written: int = 0
    flop: int = 0
    dtype: str = ""
    launches: int = 0
    pinned: bool = False

    @property
    def num_bytes(self) -> int:
        return self.bytes_read + self.bytes_written


@dataclass
class Counted:
    """The events of a step in order, and how many operators ran on the host's own tensors."""

    events: list[Event] = field(default_factory=list)
    host_operators: int = 0

    def of(self, kind: Kind) -> list[Event]:
        return [event for event in self.events if event.kind is kind]

    @property
    def launches(self) -> int:
        return sum(event.launches for event in self.events)

    @property
    def synchronisations(self) -> int:
        return len(self.of(Kind.wait)) + sum(not event.pinned for event in self.of(Kind.to_device))


def num_bytes(tensor: Tensor) -> int:
    """Counts what a tensor holds; an expanded axis is stored once."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return math.prod(size for size, stride in sizes if stride or size == 0) * tensor.element_size()


def dtype_of(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def events_of(
    func: Any, name: str, args: Any, kwargs: dict[str, Any], tensors: list[Tensor], result: Any
) -> Iterator[Event]:
    """Yields the kernels of one call of `func`; `tensors` are those among its arguments."""
    where = caller()
    if name == "convolution":
        yield from _convolution(where, args, result)
        return
    if name == "convolution_backward":
        yield from _convolution_backward(where, args, result)
        return
    written = _mutated(func, args, kwargs)
    overwritten = written if name in ("copy_", "fill_", "zero_", "bernoulli_", "normal_", "uniform_") else []
    made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    ids = {id(tensor) for tensor in written}
    made = [tensor for tensor in made if id(tensor) not in ids]
    read = {id(tensor): tensor for tensor in tensors}
    for tensor in overwritten:
        read.pop(id(tensor), None)
    flop = 0
    if func.overloadpacket in flop_registry:
        flop = int(flop_registry[func.overloadpacket](*args, **kwargs, out_val=result))
    yield Event(
        Kind.kernel,
        name,
        where,
        sum(map(num_bytes, read.values())),
        sum(map(num_bytes, (*written, *made))),
        flop,
        dtype_of((tensors or made)[0]),
        _launches(name, args),
    )


def _launches(name: str, args: Any) -> int:
    if not name.startswith(_LISTS):
        return 1
    listed = [tensor for tensor in tree_leaves(args[0]) if isinstance(tensor, Tensor)]
    return max(1, math.ceil(sum(tensor.numel() for tensor in listed) / _ELEMENTS_A_LAUNCH))


def _mutated(func: Any, args: Any, kwargs: dict[str, Any]) -> list[Tensor]:
    """Returns the arguments that an operator changes, by its schema."""
    found: list[Tensor] = []
    for index, declared in enumerate(func._schema.arguments):
        if declared.alias_info is not None and declared.alias_info.is_write:
            value = args[index] if index < len(args) else kwargs.get(declared.name)
            # The fused optimizers write gradients only where they undo a loss scale, which nothing here uses.
            if not (declared.name == "grads" and kwargs.get("grad_scale") is None):
                found += [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    return found


def _convolution(where: str, args: Any, result: Tensor) -> Iterator[Event]:
    """Counts the product, and the bias, which torch adds to cuDNN's output in a pass of its own."""
    images, weight, bias = args[:3]
    flop = 2 * result.numel() * math.prod(weight.shape[1:])
    out = num_bytes(result)
    read = num_bytes(images) + num_bytes(weight)
    yield Event(Kind.kernel, "convolution", where, read, out, flop, dtype_of(images), 1)
    if bias is not None:
        yield Event(Kind.kernel, "convolution bias", where, out, out, 0, dtype_of(images), 1)


def _convolution_backward(where: str, args: Any, result: Any) -> Iterator[Event]:
    """Counts the gradients of input, weight and bias, each of which reads the output's gradient."""
    grad, images, weight = args[:3]
    flop = 2 * grad.numel() * math.prod(weight.shape[1:])
    others = (weight, images, None)
    for title, made, other in zip(("input", "weight", "bias"), result, others, strict=True):
        if made is not None:
            read = num_bytes(grad) + (0 if other is None else num_bytes(other))
            work = 0 if other is None else flop
            name = f"convolution gradient of {title}"
            yield Event(Kind.kernel, name, where, read, num_bytes(made), work, dtype_of(grad), 1)


def caller() -> str:
    """Names the nearest function of this project that the operator was called from; backward passes have none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.name not in _COUNTERS and not _PACKAGES.isdisjoint(path.parts):
            return f"{path.stem}.{frame.f_code.co_name}"
        frame = frame.f_back
    return ""
