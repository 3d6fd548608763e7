"""Turns bytes of pixels into floats in one pass over memory, in C if it was built; torch's operators take three.

The bits are the same, so a run need not know which of them it uses.
"""

import torch
from torch import Tensor

try:
    from workers.kernels import _pixels
except ImportError:  # No C compiler at installation.
    _pixels = None  # type: ignore[assignment]


def serves(pixels: Tensor) -> bool:
    """Returns whether the kernel is built and can read `pixels`."""
    return _pixels is not None and pixels.device.type == "cpu" and pixels.is_contiguous()


def to_floats(pixels: Tensor, flips: Tensor | None, scale: Tensor, offsets: Tensor, output: Tensor) -> None:
    """Writes pixels · scale + offset to `output`, reflected left to right where `flips` says so.

    Args:
        pixels: [images, height, width, 3] uint8; `serves` is true of it.
        flips: [images] bool; None for no image.
        scale: [3] float32.
        offsets: [images, 3] float32.
        output: contiguous float32 of as many numbers as `pixels`.
    """
    images, height, width, _ = pixels.shape
    assert pixels.dtype == torch.uint8 and output.dtype == torch.float32 and output.is_contiguous()
    assert output.numel() == pixels.numel()
    assert flips is None or (flips.shape == (images,) and flips.dtype == torch.bool and flips.is_contiguous())
    scale, offsets = scale.contiguous(), offsets.contiguous()
    assert scale.dtype == offsets.dtype == torch.float32 and offsets.shape == (images, 3)
    flips_address = 0 if flips is None else flips.data_ptr()
    addresses = (pixels.data_ptr(), flips_address, scale.data_ptr(), offsets.data_ptr(), output.data_ptr())
    _pixels.apply(*addresses, images, height, width, torch.get_num_threads())
