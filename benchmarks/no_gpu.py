"""Counts what a step asks of a GPU by running its code on tensors that have shapes and a device but no memory.

The step runs as it is, with Python, autograd and autocast. Operators on the host's tensors are computed; those on the
GPU's are only counted: bytes read and written, FLOP, launches, copies, and the values that the host waits for.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self
from unittest.mock import patch

import torch
from torch import Tensor, library as torch_operators
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.nn import functional
from torch.nn.parameter import Parameter
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.operations import Counted, Event, Kind, caller, dtype_of, events_of, num_bytes

# Aliases that torch's schemas do not mark as views, and memory that nothing is written to.
_NO_WORK = frozenset(
    {"_unsafe_view", "lift_fresh", "empty_like", "empty", "empty_strided", "new_empty", "new_empty_strided", "device"}
)
# The shape or the answer of these is a value, which the host waits for.
_WAITS = frozenset({"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2"})
_OWN_DEVICE: Any = FakeTensor.device


@contextmanager
def no_gpu() -> Iterator[Counted]:
    """Counts what the block does on "cuda", which need not exist; the values of its tensors do not exist either.

    Autograd's engine and autocast both want a driver for "cuda". So below Python the tensors are the CPU's, with the
    operators that CUDA's autocast computes in float32; `_OnCuda` says "cuda" to the code. A value that the block reads
    is 1, so a check for finite numbers passes.
    """
    counted = Counted()
    with ExitStack() as stack:
        stack.enter_context(_autocast_as_cuda())
        counter = _Counter(counted)
        for name, stand_in in _cuda_stand_ins(counter).items():
            stack.enter_context(patch.object(torch.cuda, name, stand_in))
        stack.enter_context(patch.object(FakeTensor, "device", property(counter.device_of)))
        stack.enter_context(patch.object(_foreach_utils, "_foreach_supported_types", [Tensor, Parameter, FakeTensor]))
        fakes = stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(counter)
        stack.enter_context(_OnCuda(fakes, counter))
        yield counted


def count(step: Callable[[], object]) -> Counted:
    """Counts one call of `step`, whose tensors on "cuda" have no values."""
    with no_gpu() as counted:
        step()
    return counted


class _Inert:
    """Stands in for a stream or an event of torch.cuda: the count has one order, that of the host."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *_, **__: True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


def _cuda_stand_ins(counter: "_Counter") -> dict[str, Any]:
    return {
        "Stream": _Inert,
        "Event": _Inert,
        "current_stream": _Inert,
        "default_stream": _Inert,
        "stream": _Inert,
        "synchronize": lambda *_: counter.waited("synchronize"),
    }


@contextmanager
def _autocast_as_cuda() -> Iterator[None]:
    """Lets `torch.autocast("cuda")` act on the CPU's tensors, with CUDA's list of operators in float32."""
    own, library = torch.autocast, torch_operators.Library("aten", "IMPL")
    off = torch._C._ExcludeDispatchKeyGuard
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)

    def in_float32(operator: Any) -> Callable[..., Any]:
        def compute(first: Tensor, *args: Any, **kwargs: Any) -> Any:
            with off(keys):
                return operator(first.float() if first.is_floating_point() else first, *args, **kwargs)

        return compute

    aten = torch.ops.aten
    for operator in (aten.rsqrt.default, aten.pow.Tensor_Scalar, aten.exp.default, aten.log.default, aten.sum.default,
                     aten.softmax.int, aten.log_softmax.int):  # fmt: skip
        with warnings.catch_warnings(action="ignore"):
            library.impl(operator, in_float32(operator), "AutocastCPU")
    try:
        with patch.object(torch, "autocast", lambda _device_type, **kwargs: own("cpu", **kwargs)):
            yield
    finally:
        library._destroy()


class _OnCuda(TorchFunctionMode):
    """Makes calls that name "cuda" work without a GPU, and its tensors say that they are there."""

    def __init__(self, fakes: FakeTensorMode, counter: "_Counter") -> None:
        super().__init__()
        self._fakes, self._counter = fakes, counter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        first = args[0] if args else None
        here = isinstance(first, FakeTensor)
        if here and func == Tensor.is_cuda.__get__:
            return True
        if func is functional.dropout and here:
            # One operator on CUDA, three on the CPU.
            p, training = (*args[1:], *kwargs.values())[:2]
            return torch.native_dropout(first, p, training)[0] if training and 0 < p < 1 else first
        if func in (Tensor.to, Tensor.cuda, Tensor.cpu) and isinstance(first, Tensor):
            return self._moved(func, first, args[1:], kwargs)
        if isinstance(first, Tensor) and func is Tensor.pin_memory:
            return self._counter.pinned_copy(first)
        if func is Tensor.record_stream:
            return None
        if isinstance(first, Tensor) and func is Tensor.is_pinned:
            return self._counter.is_pinned(first)
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = "cpu"
            with self._counter.making():
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def _moved(self, func: Any, tensor: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Does what `to` asks: a copy to the device or back, a conversion, or both."""
        named = next((value for value in (*args, kwargs.get("device")) if isinstance(value, str | torch.device)), None)
        here = isinstance(tensor, FakeTensor)
        if func is Tensor.cuda or func is Tensor.cpu:
            named, args = func.__name__, ()
        to_device, to_host = _is_cuda(named), named is not None and torch.device(named).type == "cpu"
        if named is not None:
            args = tuple("cpu" if isinstance(value, str | torch.device) else value for value in args)
            kwargs.pop("device", None)
        if to_device and not here:
            free = bool(kwargs.get("non_blocking") or (args and args[-1] is True))
            self._counter.sent(tensor, free)
            with self._counter.within():
                tensor = self._fakes.from_tensor(tensor)
        elif to_host and here:
            return self._counter.read("cpu", tensor)
        return tensor if func is not Tensor.to else Tensor.to(tensor, *(args or ("cpu",)), **kwargs)


def _is_cuda(device: Any) -> bool:
    return isinstance(device, str | torch.device) and torch.device(device).type == "cuda"


class _Counter(TorchDispatchMode):
    """Counts operators on fake tensors, which are the device's, and computes those on real ones, the host's."""

    def __init__(self, counted: Counted) -> None:
        super().__init__()
        self._counted, self._making, self._within = counted, False, False
        self._pinned: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_device = [isinstance(tensor, FakeTensor) for tensor in tensors]
        if not (any(on_device) or self._making):
            return self._on_host(func, args, kwargs)
        if name in _WAITS or (name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])):
            return self.read(name, tensors[0])
        if name == "copy_" and on_device == [False, True]:
            self.read(name, args[1])
            with unset_fake_temporarily():
                return args[0].fill_(1)
        if name == "copy_" and on_device == [True, False]:
            self.sent(args[1], free=bool(kwargs.get("non_blocking") or (len(args) > 2 and args[2])))
            return args[0]
        with self.within():
            result = func(*args, **kwargs)
        if not (func.is_view or name in _NO_WORK):
            self._counted.events.extend(events_of(func, name, args, kwargs, tensors, result))
        return result

    def _on_host(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Computes an operator of host tensors; memory is only noted as pinned, because that needs a driver."""
        pinned = kwargs.pop("pin_memory", False)
        with unset_fake_temporarily():
            result = func(*args, **kwargs)
        if pinned:
            self._pinned.append(result)
        self._counted.host_operators += not func.is_view
        return result

    def device_of(self, tensor: Any) -> torch.device:
        """Returns "cuda" to the code, and the device below it to torch's own."""
        return _OWN_DEVICE.__get__(tensor) if self._within else torch.device("cuda", 0)

    @contextmanager
    def within(self) -> Iterator[None]:
        """Marks the block as torch's own."""
        before, self._within = self._within, True
        try:
            yield
        finally:
            self._within = before

    @contextmanager
    def making(self) -> Iterator[None]:
        """Makes the tensors of the block on the device."""
        before, self._making = self._making, True
        try:
            yield
        finally:
            self._making = before

    def pinned_copy(self, tensor: Tensor) -> Tensor:
        copy = tensor.clone()
        self._pinned.append(copy)
        return copy

    def is_pinned(self, tensor: Tensor) -> bool:
        """Returns whether a host tensor lies in memory that was asked to be pinned."""
        with unset_fake_temporarily():
            spans = [(one.data_ptr(), one.data_ptr() + one.nbytes) for one in self._pinned]
            return any(begin <= tensor.data_ptr() < end for begin, end in spans)

    def sent(self, tensor: Tensor, free: bool) -> None:
        """Counts a copy to the device; it does not block if it is asked not to and the source is pinned."""
        size = num_bytes(tensor)
        pinned = free and self.is_pinned(tensor)
        self._counted.events.append(Event(Kind.to_device, "copy", caller(), size, size, 0, dtype_of(tensor), 1, pinned))

    def waited(self, name: str) -> None:
        self._counted.events.append(Event(Kind.wait, name, caller()))

    def read(self, name: str, tensor: Tensor) -> Any:
        """Counts a wait for a value and returns ones in its place."""
        self.waited(name)
        if name == "_local_scalar_dense":
            return True if tensor.dtype == torch.bool else 1.0 if tensor.dtype.is_floating_point else 1
        if name == "equal":
            return True
        if name in ("cpu", "copy_"):
            with unset_fake_temporarily():
                return torch.ones(tensor.shape, dtype=tensor.dtype)
        raise NotImplementedError(f"{name}: without values its result has no size")
