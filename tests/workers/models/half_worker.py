"""A process that trains one half of AlexNet beside another that trains the other; started by test_half_process.

Arguments: a folder, and the half's index. `tasks.pt` in the folder says what to do, `half-<index>.pt` holds this half's
weights; `after-<index>.pt` tells what became of them, task by task.
"""

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from half_process import logits_of

from workers.models.halves import Half
from workers.training import build_optimizer, mean_loss


def updated(task: dict[str, Any], weights: dict[str, torch.Tensor], index: int) -> dict[str, Any]:
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
