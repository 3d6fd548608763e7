"""Decides whether batch norm uses its batch or the running statistics (Ioffe and Szegedy 2015, §3.1).

Where a batch is cut into shards, running statistics take in the pieces in order, whoever computed them.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
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
        norm.train(num_images > 1 and not _is_frozen(norm))


class RunningStatistics:
    """Keeps running statistics as they were before a batch while its pieces pass, and takes these in afterwards.

    Torch's own update rounds in its own way, which cannot be repeated from what another process computed. So an update
    with a momentum of 1 leaves a piece's own statistics, which are captured. A frozen norm is left alone.
    """

    def __init__(self, norms: Sequence[_BatchNorm]) -> None:
        self._norms = [norm for norm in norms if norm.running_mean is not None and not _is_frozen(norm)]
        self._momenta = [norm.momentum for norm in self._norms]
        self._own: list[Tensor] = []
        self._counts: list[Tensor] = []
        for norm in self._norms:
            assert norm.running_mean is not None and norm.running_var is not None
            assert norm.num_batches_tracked is not None
            self._own += [norm.running_mean, norm.running_var]
            self._counts.append(norm.num_batches_tracked)
            norm.momentum = 1.0
        self._sizes = [len(each) for each in self._own]
        self._before = torch.cat(self._own) if self._own else torch.empty(0)
        self._count = torch.stack(self._counts) if self._own else torch.empty(0)

    @property
    def columns(self) -> int:
        """The numbers that `captured` returns."""
        return len(self._before) + len(self._count)

    def captured(self, like: Tensor) -> Tensor:
        """Returns what the piece that has just passed left, [columns] float32, and puts back what was before it.

        It is each norm's mean and variance, then how often each was used: not at all for a piece of one image.
        """
        if not self._own:
            return like.new_empty(0)
        row = torch.cat([*self._own, (torch.stack(self._counts) - self._count).to(self._before.dtype)])
        self._put_back()
        return row

    def take_in(self, rows: Iterable[Tensor]) -> None:
        """Moves the running statistics by what pieces left, in order; with momentum None, they are plain means."""
        for norm, momentum in zip(self._norms, self._momenta, strict=True):
            norm.momentum = momentum
        if not self._own:
            return
        # Made on the device, for each number: its norm, and the norm's momentum.
        widths = [2 * len(mean) for mean in self._own[::2]]
        owner = torch.cat([self._count.new_full((width,), index) for index, width in enumerate(widths)])
        shares = zip(widths, self._momenta, strict=True)
        momenta = torch.cat([self._before.new_full((width,), share or 0.0) for width, share in shares])
        for row in rows:
            used = row[len(self._before) :]
            self._count += used.to(self._count.dtype)
            once = used.clamp(max=1)[owner]
            moved = once * momenta
            if None in self._momenta:
                moved = torch.where(momenta == 0, once / self._count.clamp(min=1)[owner], moved)
            self._before.lerp_(row[: len(self._before)], moved)
        self._put_back()

    def _put_back(self) -> None:
        torch._foreach_copy_(self._own, self._before.split_with_sizes(self._sizes))
        torch._foreach_copy_(self._counts, self._count.unbind())


def _is_frozen(norm: _BatchNorm) -> bool:
    return norm.affine and not norm.weight.requires_grad
