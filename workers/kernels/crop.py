"""A window of RGB pixels copied, reflected where asked for: one pass in C where it was built, else torch's two."""

import numpy as np
import torch

try:
    from workers.kernels import _crop
except ImportError:  # No C compiler at installation.
    _crop = None  # type: ignore[assignment]


def is_built() -> bool:
    """Whether the installation holds the kernel."""
    return _crop is not None


def copy(window: np.ndarray, target: np.ndarray, reflected: bool) -> None:
    """Copies `window` to `target`, both [height, width, 3] uint8, and reflects it left to right where asked.

    The kernel lets other threads run meanwhile: pages of a mapped store may have to come from disk first.
    """
    if _crop is None or not _crop.apply(window, target, reflected):
        in_torch(window, target, reflected)


def in_torch(window: np.ndarray, target: np.ndarray, reflected: bool) -> None:
    """The same without the kernel."""
    assert window.shape == target.shape
    target[...] = window
    if reflected:
        # torch reflects a row of uint8 pixels fifteen times as fast as NumPy copies it backwards.
        target[...] = torch.from_numpy(target).flip(1).numpy()
