"""Decides whether batch norm uses its batch or the running statistics (Ioffe and Szegedy 2015, §3.1)."""

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(model: nn.Module) -> tuple[_BatchNorm, ...]:
    """The batch norms of `model`."""
    return tuple(module for module in model.modules() if isinstance(module, _BatchNorm))


def set_modes(norms: Sequence[_BatchNorm], num_images: int) -> None:
    """Sets each norm up for an update on `num_images` images.

    A frozen norm uses its running statistics and leaves them unchanged, since they are part of the layer. With a batch
    of one image, as the last of an epoch may be, every norm does: one pixel a map has no variance.
    """
    for norm in norms:
        frozen = norm.affine and not norm.weight.requires_grad
        norm.train(num_images > 1 and not frozen)
