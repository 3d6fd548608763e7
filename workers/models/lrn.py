"""Local response normalisation across channels (Krizhevsky et al. 2012, §3.3)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from workers.kernels import lrn as kernel


def band_matrix(channels: int, size: int) -> Tensor:
    """Returns a [channels, channels] float32 matrix of ones within `size // 2` of the diagonal, to sum windows."""
    index = torch.arange(channels)
    return ((index[:, None] - index[None, :]).abs() <= size // 2).float()


def _power(base: Tensor, beta: float) -> Tensor:
    """Returns `base ** -beta`, by roots for the paper's 0.75.

    Roots are 2.2 to 2.8 times as fast as `pow` on one core (small net's shapes), but slower unless `numerics.apply` has
    stopped glibc from returning freed memory.
    """
    if beta == 0.75:
        root = base.rsqrt()
        return root * root.sqrt()
    return base.pow(-beta)


class _LocalResponseNorm(torch.autograd.Function):
    """y = x · d^-β, d = k + (α/n) · band(x²), by torch's operators; the gradient is explicit and keeps four tensors."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, band: Tensor, scale: float, k: float, beta: float) -> Tensor:
        denominator = torch.mm(rows * rows, band).mul_(scale).add_(k)
        factor = _power(denominator, beta)
        ctx.save_for_backward(rows, band, denominator, factor)
        ctx.scale, ctx.beta = scale, beta
        return rows * factor

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        rows, band, denominator, factor = ctx.saved_tensors
        weighted = grad * factor
        # dL/dx_i = g_i d_i^-β − 2αβ/n · x_i · Σ_j∈window(i) g_j x_j d_j^(-β-1); the window is symmetric.
        window = torch.mm((weighted * rows).div_(denominator), band)
        return weighted.sub_(rows * window.mul_(2 * ctx.scale * ctx.beta)), None, None, None, None


def _window_sums(rows: Tensor, size: int) -> Tensor:
    """Returns the sums of `size` neighbouring channels of [pixels, channels]."""
    return functional.avg_pool2d(rows[None], (1, size), 1, (0, size // 2), divisor_override=1)[0]


class _PooledLocalResponseNorm(torch.autograd.Function):
    """The same for GPUs: few passes, which torch.compile fuses; in float32 or wider; keeps two tensors.

    A product with the band takes channels / size times the operations, and cannot be fused; on CPUs it is several times
    as fast as this all the same. Has never run on a GPU.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, size: int, scale: float, k: float, beta: float) -> Tensor:
        wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
        # k + scale · sum, in one pass.
        denominator = torch.rsub(_window_sums(wide * wide, size), k, alpha=-scale)
        ctx.save_for_backward(rows, denominator)
        ctx.size, ctx.scale, ctx.beta = size, scale, beta
        return (wide * denominator.pow(-beta)).to(rows.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        rows, denominator = ctx.saved_tensors
        weighted = grad * denominator.pow(-ctx.beta)
        window = _window_sums(weighted * rows / denominator, ctx.size)
        found = torch.addcmul(weighted, rows, window, value=-2 * ctx.scale * ctx.beta)
        return found.to(rows.dtype), None, None, None, None


class _CompiledLocalResponseNorm(torch.autograd.Function):
    """The same by the compiled kernel, which keeps only its input and computes the denominator again."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, size: int, scale: float, k: float, rectify: bool) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.settings = (size, scale, k, rectify)
        return kernel.apply(rows, None, *ctx.settings)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (rows,) = ctx.saved_tensors
        return kernel.apply(rows, grad.contiguous(), *ctx.settings), None, None, None, None


class LocalResponseNorm(nn.Module):
    """Normalises each pixel's channels by the activity of `size` neighbouring ones; with `rectify`, after a ReLU.

    Equal to `torch.nn.LocalResponseNorm(size, alpha, beta, k)` to rounding: α is divided by `size`, as in the released
    source. An input of n · `channels` channels is normalised in n separate groups. The norm works on [pixels, channels]
    rows, which are a view in channels_last order. On CPUs it uses the compiled kernel if the run's numerics say so,
    else sums windows by a banded matrix product. Denominators are at least float32: after 2, bfloat16 has 2.0156.
    """

    band: Tensor

    def __init__(self, channels: int, size: int, alpha: float, beta: float, k: float, *, rectify: bool = False) -> None:
        super().__init__()
        self.channels = channels
        self.size, self.scale, self.beta, self.k, self.rectify = size, alpha / size, beta, k, rectify
        self.register_buffer("band", band_matrix(channels, size), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Takes and returns [batch, channels, height, width]."""
        batch, channels, height, width = images.shape
        rows = images.permute(0, 2, 3, 1).reshape(-1, self.channels)
        normalised: Tensor
        if kernel.serves(rows, self.size, self.beta):
            normalised = _CompiledLocalResponseNorm.apply(rows, self.size, self.scale, self.k, self.rectify)
        else:
            normalised = self._by_operators(rows.relu() if self.rectify else rows)
        return normalised.view(batch, height, width, channels).permute(0, 3, 1, 2)

    def _by_operators(self, rows: Tensor) -> Tensor:
        normalised: Tensor
        if rows.device.type != "cpu":
            normalised = _PooledLocalResponseNorm.apply(rows, self.size, self.scale, self.k, self.beta)
            return normalised
        wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
        # Autocast would make the window sums bfloat16 again.
        with torch.autocast("cpu", enabled=False):
            normalised = _LocalResponseNorm.apply(wide, self.band.to(wide.dtype), self.scale, self.k, self.beta)
        return normalised.to(rows.dtype)
