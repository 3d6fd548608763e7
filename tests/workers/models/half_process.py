"""One half of AlexNet in a process of its own: the other half's weights are nowhere in it.

The two processes form a torch.distributed group (gloo on CPUs, nccl on GPUs: the latter has not been run), the first
half's being rank 0. Both call `logits_of` with the same images and the same torch seed; backward and an update of each
half's own parameters then are an update of the grouped net.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from workers.models.halves import NUM_HALVES, Half

Group = dist.ProcessGroup | None


def logits_of(half: Half, images: Tensor, group: Group = None) -> Tensor:
    """Takes normalised [batch, 3, size, size], gives both halves' logits [batch, classes] in both processes.

    Args:
        half: this process's, whose index is its rank.
        images: on the half's device.
        group: the two processes; None for all that there are.
    """
    assert dist.get_world_size(group) == NUM_HALVES
    assert dist.get_rank(group) == half.index
    *meetings, last = half.segments
    whole = images
    for segment in meetings:
        whole = _Meet.apply(half(whole, segment), segment.widths, group)
        # Seeded alike, both processes draw the same mask.
        whole = half.drop(whole) if segment.dropped else whole
    own = half(whole, last)
    # Each process computes the whole loss from the logits: summed, their gradients would count it twice.
    logits = _gather(own.detach(), last.widths, group)
    logits[half.index] = own
    return torch.cat(logits, dim=1)


class _Meet(torch.autograd.Function):
    """Both halves' outputs side by side; back goes the sum of both processes' gradients of this one's own."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, widths: tuple[int, int], group: Group) -> Tensor:
        ctx.widths, ctx.group = widths, group
        return torch.cat(_gather(own, widths, group), dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        # A copy, since the gradient that comes in is not ours to overwrite.
        summed = grad.movedim(1, -1).clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed, group=ctx.group)
        own = summed.split_with_sizes(ctx.widths, dim=-1)[dist.get_rank(ctx.group)]
        return own.movedim(-1, 1), None, None


def _gather(own: Tensor, widths: tuple[int, int], group: Group) -> list[Tensor]:
    """Both halves' [batch, width, …]; it travels with the channels last, which is how images lie in memory."""
    rows = own.movedim(1, -1).contiguous()
    parts = [rows.new_empty((*rows.shape[:-1], width)) for width in widths]
    parts[dist.get_rank(group)] = rows
    # Not an all-gather, which wants equal widths.
    for rank, part in enumerate(parts):
        dist.broadcast(part, group=group, group_src=rank)
    return [part.movedim(-1, 1) for part in parts]
