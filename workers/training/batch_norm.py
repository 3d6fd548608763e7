"""When batch norm normalises by its batch, and when by the running statistics (Ioffe and Szegedy 2015, §3.1)."""

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(model: nn.Module) -> tuple[_BatchNorm, ...]:
    """The batch norms of `model`."""
    return tuple(module for module in model.modules() if isinstance(module, _BatchNorm))


def set_modes(norms: Sequence[_BatchNorm], num_images: int) -> None:
    """Sets each up for an update on `num_images` images.

    A frozen one goes by its running statistics and leaves them as they are: they are as much a part of the layer as its
    weights. So does every one where the batch is a single image, as the last of an epoch may be: where nothing is left
    of the image but one pixel, there is no variance to divide by.
    """
    for norm in norms:
        frozen = norm.affine and not norm.weight.requires_grad
        norm.train(num_images > 1 and not frozen)
