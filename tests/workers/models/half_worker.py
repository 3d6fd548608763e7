"""A process that trains one half of AlexNet beside another that trains the other; started by test_half_process.

The other half's weights are nowhere in it. Arguments: a folder, and the half's index. `tasks.pt` in the folder says
what to do, `half-<index>.pt` holds this half's weights; `after-<index>.pt` tells what became of them, task by task.
"""

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from workers.models.halves import Half
from workers.training import build_optimizer, mean_loss


def logits_of(half: Half, images: Tensor) -> Tensor:
    """Gives both halves' logits [batch, classes] in both processes, which must use the same torch seed."""
    *meetings, last = half.segments
    whole = images
    for segment in meetings:
        whole = _Meet.apply(half(whole, segment), segment.widths)
        # Seeded alike, both processes draw the same mask.
        whole = half.drop(whole) if segment.dropped else whole
    own = half(whole, last)
    # Each process computes the whole loss from the logits: summed, their gradients would count it twice.
    logits = _gather(own.detach(), last.widths)
    logits[half.index] = own
    return torch.cat(logits, dim=1)


class _Meet(torch.autograd.Function):
    """Both halves' outputs side by side; back goes the sum of both processes' gradients of this one's own."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, widths: tuple[int, int]) -> Tensor:
        ctx.widths = widths
        return torch.cat(_gather(own, widths), dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        summed = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed.split_with_sizes(ctx.widths, dim=1)[dist.get_rank()], None


def _gather(own: Tensor, widths: tuple[int, int]) -> list[Tensor]:
    """Both halves' [batch, width, …]; not by an all-gather, which wants equal widths."""
    parts = [own.new_empty((len(own), width, *own.shape[2:])) for width in widths]
    parts[dist.get_rank()] = own.contiguous()
    for rank, part in enumerate(parts):
        dist.broadcast(part, src=rank)
    return parts


def updated(task: dict[str, Any], weights: dict[str, Tensor], index: int) -> dict[str, Any]:
    half = Half(task["model"], task["num_classes"], index).to(memory_format=torch.channels_last)
    half.load_state_dict(weights)
    half.to(task["dtype"])
    optimizer = build_optimizer(half, task["optimizer"], task["freeze"], {})
    logits = []
    for step, (images, labels) in enumerate(task["batches"]):
        half.train()
        torch.manual_seed(step)
        logits.append(logits_of(half, images.to(task["dtype"])))
        optimizer.zero_grad()
        mean_loss(logits[-1], labels).backward()
        optimizer.step()
    owned = {name: parameter.detach() for name, parameter in half.named_parameters()}
    return {"weights": owned, "logits": [one.detach() for one in logits]}


def main(folder: Path, index: int) -> None:
    torch.set_num_threads(1)
    tasks = torch.load(folder / "tasks.pt", weights_only=False)
    weights = torch.load(folder / f"half-{index}.pt")
    store = dist.FileStore(str(folder / "meeting"), 2)
    dist.init_process_group("gloo", store=store, rank=index, world_size=2, timeout=timedelta(seconds=60))
    torch.save([updated(task, weights, index) for task in tasks], folder / f"after-{index}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
