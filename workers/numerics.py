"""Sets up and compares all that changes bits: threads, precision, device, and the code itself."""

import ctypes
import gc
import hashlib
import os
import platform
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from workers.errors import ConfigError
from workers.protocol import Numerics

if TYPE_CHECKING:
    import torch
    from torch import nn

# mallopt's parameter numbers (malloc.h).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# The workspaces with which cuBLAS gives the same bits each time; the first is the faster one.
_CUBLAS_WORKSPACES = (":4096:8", ":16:8")
# Of a net's compiled step in one process: sizes of pieces, times phases of layers' rates, times stages.
_MOST_FORMS = 1024
_CPU_INFO = Path("/proc/cpuinfo")
_IS_GLIBC = platform.libc_ver()[0] == "glibc"
_REFUSAL = re.compile(r"(\w+)( with [\w ]+)? does not have a deterministic implementation")


_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Capabilities:
    """The abilities of this machine's CPU and this installation that change bits.

    Attributes:
        bf16: the CPU multiplies bfloat16 in hardware; otherwise torch emulates it, slower than float32.
        compiled_kernels: the C kernel of local response normalisation was built when Septet was installed.
    """

    bf16: bool
    compiled_kernels: bool


def capabilities(cpu_info: Path = _CPU_INFO) -> Capabilities:
    """Reads the CPU's abilities from `cpu_info` and looks for the compiled kernel, without loading torch."""
    try:
        flags = {
            flag for line in cpu_info.read_text().splitlines() if line.startswith("flags") for flag in line.split()
        }
    except OSError:
        flags = set()
    built = find_spec("workers.kernels._lrn") is not None
    return Capabilities(bf16=bool(flags & {"avx512_bf16", "amx_bf16"}), compiled_kernels=built)


def cpu_model(cpu_info: Path = _CPU_INFO) -> str:
    """Returns the CPU's model, as the kernel names it."""
    text = cpu_info.read_text(errors="replace") if cpu_info.is_file() else ""
    named = re.search(r"^model name\s*:(.*)", text, re.MULTILINE)
    return named[1].strip() if named else platform.processor() or platform.machine()


def missing(numerics: Numerics, found: Capabilities) -> str:
    """Names what this machine lacks of a run's `numerics`, for a message; returns "" if it lacks nothing."""
    if numerics.kernels == "compiled" and not found.compiled_kernels:
        return "compiled kernels (install Septet on a machine with a C compiler)"
    if numerics.precision == "bf16" and numerics.device == "cpu" and not found.bf16:
        return "a CPU that multiplies bfloat16"
    return ""


def apply(numerics: Numerics) -> None:
    """Sets this process up for `numerics`; call it before any other use of torch.

    It sets the threads by a call, because torch ignores OMP_NUM_THREADS once it is loaded. TF32 is on only if asked
    for, so that fp32 means fp32 on GPUs. On a GPU, operations are deterministic or refused (see `refusals`). On a CPU
    they are as torch has them, also after a GPU's numerics were applied to the same process.
    """
    import torch

    from workers.kernels import lrn

    _keep_freed_memory()
    lrn.select(numerics.kernels)
    torch.set_num_threads(numerics.threads)
    # These set torch's newer `fp32_precision` too. If only that is set, readers of the older settings raise, and in
    # torch 2.14 its compiler and `cudnn.flags` are among them.
    torch.backends.cuda.matmul.allow_tf32 = numerics.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = numerics.precision == "tf32"
    on_gpu = numerics.device.startswith("cuda")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = on_gpu
    if on_gpu and os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in _CUBLAS_WORKSPACES:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = _CUBLAS_WORKSPACES[0]
    # Not called without need, since it loads torch's compiler, which takes seconds.
    if torch.are_deterministic_algorithms_enabled() != on_gpu:
        torch.use_deterministic_algorithms(on_gpu)
    # It would fill every new tensor with NaN first, a pass over memory for each.
    torch.utils.deterministic.fill_uninitialized_memory = not on_gpu  # type: ignore[attr-defined]


def usable(numerics: Numerics, found: Capabilities) -> Numerics:
    """Replaces absent compiled kernels by torch's operators, which differ by a rounding, to predict new images."""
    return numerics if found.compiled_kernels else replace(numerics, kernels="torch")


def _keep_freed_memory() -> None:
    """Stops glibc from returning freed activations to the kernel, which would zero and map them again a step later.

    Measured on one core: 17 % more images a second at 56 pixels and width 0.33, 28 % more at width 0.5.
    """
    if _IS_GLIBC:
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, ctypes.c_int(1 << 30))
        libc.mallopt(_M_TRIM_THRESHOLD, ctypes.c_int(2**31 - 1))


def memory_returned(work: Callable[_P, _T]) -> Callable[_P, _T]:
    """Returns `work` with what it leaves freed and given back, as its process may do other work next.

    The collector then skips all that is left: torch's objects alone would take it 0.2 s each time.
    """

    def then_returned(*given: _P.args, **named: _P.kwargs) -> _T:
        import torch

        done = work(*given, **named)
        gc.collect()
        gc.freeze()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()
        if _IS_GLIBC:
            ctypes.CDLL(None).malloc_trim(0)
        return done

    return then_returned


def convolution_dtype(numerics: Numerics) -> "torch.dtype":
    """Returns what a forward pass converts the inputs of convolutions and products to."""
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(numerics.precision, torch.float32)


def autocast(numerics: Numerics) -> AbstractContextManager[Any]:
    """Returns the context that a forward pass runs in."""
    import torch

    device_type, dtype = numerics.device.partition(":")[0], convolution_dtype(numerics)
    return torch.autocast(device_type, dtype=dtype, enabled=dtype is not torch.float32)


@contextmanager
def shared_casts() -> Iterator[None]:
    """Keeps the weights that autocast has converted for all forward passes of the block, which must not change them."""
    import torch

    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()


@contextmanager
def refusals(net: str) -> Iterator[None]:
    """Raises ConfigError if torch refuses an operation of the block, which trains the model `net`, on a GPU."""
    try:
        yield
    except RuntimeError as error:
        if (refused := _REFUSAL.search(str(error))) is None:
            raise
        raise ConfigError(
            f"model.name={net}: torch's {refused[1]} gives other bits each time on GPUs; choose another model, or "
            "train on CPUs (cluster.gpus_per_member=0)"
        ) from error


def compiled(model: "nn.Module", numerics: Numerics) -> Callable[..., Any]:
    """Returns the forward pass of `model` for training: the model itself, or its compiled form with the same weights.

    It is compiled at its first call for each shape of batch and each mode of a module, in seconds to a minute. Where
    operations must be deterministic (`apply`), the compiler chooses kernels by rule and never by timing them.
    """
    import torch

    if numerics.compile == "off":
        return model
    # Beyond its usual 8 forms a process, torch leaves the rest uncompiled. A resumed stage counts from none again,
    # so it would compile others than the undisturbed one, and have other bits.
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = _MOST_FORMS
    mode = "reduce-overhead" if numerics.compile == "graphs" else "default"
    return torch.compile(model, dynamic=False, mode=mode)


def code_digest() -> str:
    """Returns the sha256 over the sources of `workers` and torch's version: a change of either may change bits."""
    digest = hashlib.sha256(metadata.version("torch").encode())
    package = Path(__file__).parent
    for source in sorted((*package.rglob("*.py"), *package.rglob("*.c"))):
        digest.update(source.relative_to(package).as_posix().encode())
        digest.update(source.read_bytes())
    return digest.hexdigest()
