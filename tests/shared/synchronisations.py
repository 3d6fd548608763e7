"""Counts where a block makes the host wait for a tensor's value, which on a GPU empties the queue."""

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# `item`, `bool`, `float`, `int` and `if` all end in the first. The shape or the answer of the others is a value.
_OPERATORS = frozenset(
    {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "unique_consecutive"}
)
# These do not pass the dispatcher when the tensor is on the CPU already.
_METHODS = ("cpu", "numpy", "tolist")
_TORCH = str(Path(torch.__file__).parent)


@dataclass
class Synchronisations:
    """The waits of a block, each as `operator at file:line` of the nearest line outside torch."""

    places: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.places)


class _Watch(TorchDispatchMode):
    def __init__(self, found: Synchronisations) -> None:
        super().__init__()
        self._found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in _OPERATORS or _has_mask(name, args) or _leaves_device(name, args, kwargs or {}):
            self._found.places.append(f"{name} at {_caller()}")
        return func(*args, **(kwargs or {}))


def _has_mask(name: str, args: Any) -> bool:
    """Returns whether an index is a boolean mask, whose count of true elements the result's shape depends on."""
    return name == "index" and any(index is not None and index.dtype == torch.bool for index in args[1])


def _leaves_device(name: str, args: Any, kwargs: Any) -> bool:
    """Returns whether a copy brings a tensor from a device to the host and waits for it."""
    if name == "copy_":
        target, source = args[:2]
        return target.device.type == "cpu" != source.device.type and not (len(args) > 2 and args[2])
    if name == "_to_copy":
        to = torch.device(kwargs.get("device") or args[0].device)
        return to.type == "cpu" != args[0].device.type and not kwargs.get("non_blocking")
    return False


def _caller() -> str:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file != __file__ and not file.startswith(_TORCH):
            return f"{Path(file).name}:{frame.f_lineno}"
        frame = frame.f_back
    return "an unknown line"


@contextmanager
def synchronisations() -> Iterator[Synchronisations]:
    """Counts the waits that this thread makes inside the block; those of other threads are not counted.

    It counts `item`, `bool`, `float`, `int`, `tolist`, `numpy`, `cpu`, and operators whose result's shape is a value
    (`nonzero`, a boolean mask as an index). On CPU tensors `.to("cpu")` cannot be told from a copy to the device that
    trains, so it is not counted; nor is a wait on a tensor that would be the host's own on a GPU machine left out.
    """
    found, here = Synchronisations(), threading.get_ident()

    def counted(name: str) -> Any:
        own = getattr(torch.Tensor, name)

        def method(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() == here:
                found.places.append(f"{name} at {_caller()}")
            return own(self, *args, **kwargs)

        return method

    with ExitStack() as stack:
        for name in _METHODS:
            stack.enter_context(patch.object(torch.Tensor, name, counted(name)))
        stack.enter_context(_Watch(found))
        yield found
