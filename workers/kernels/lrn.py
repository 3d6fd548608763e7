"""The compiled kernel of local response normalisation: one pass over memory forward, one backward.

It is built when Septet is installed on a machine with a C compiler. A run's numerics say whether its processes use it,
because it rounds differently from torch's operators.
"""

import torch
from torch import Tensor

from workers.errors import ConfigError

try:
    from workers.kernels import _lrn
except ImportError:  # No C compiler at installation.
    _lrn = None  # type: ignore[assignment]

BETA = 0.75
_is_selected = False


def is_built() -> bool:
    """Returns whether the installation has the kernel."""
    return _lrn is not None


def select(kernels: str) -> None:
    """Makes this process use the kernel ("compiled"), or torch's operators ("torch").

    Raises:
        ConfigError: the kernel was not built here.
    """
    global _is_selected
    if kernels == "compiled" and not is_built():
        raise ConfigError(
            "the run uses compiled kernels (run.json), which were not built here; "
            "install a C compiler, then install Septet again"
        )
    _is_selected = kernels == "compiled"


def serves(rows: Tensor, size: int, beta: float) -> bool:
    """Returns whether the kernel is selected and can normalise `rows`, a CPU tensor in float32 or bfloat16."""
    return (
        _is_selected
        and beta == BETA
        and rows.device.type == "cpu"
        and rows.dtype in (torch.float32, torch.bfloat16)
        and rows.shape[1] <= _lrn.MOST_CHANNELS
        and size <= _lrn.MOST_WINDOW
    )


def apply(rows: Tensor, grad: Tensor | None, size: int, scale: float, k: float, rectify: bool) -> Tensor:
    """Computes x · (k + scale · Σ x²)^-0.75 over windows of `size` channels, of ReLU(x) if `rectify`.

    Given `grad`, the gradient of that output, computes the gradient of `rows`. All are contiguous [pixels, channels],
    float32 or bfloat16; it computes in float32.
    """
    assert rows.is_contiguous()
    assert grad is None or (grad.is_contiguous() and grad.shape == rows.shape and grad.dtype == rows.dtype)
    output = torch.empty_like(rows)
    pixels, channels = rows.shape
    pointers = rows.data_ptr(), 0 if grad is None else grad.data_ptr(), output.data_ptr()
    is_bfloat16, num_threads = rows.dtype is torch.bfloat16, torch.get_num_threads()
    _lrn.apply(*pointers, pixels, channels, size, is_bfloat16, rectify, scale, k, num_threads)
    return output
