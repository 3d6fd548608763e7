"""Times a training step in plain PyTorch on a batch that is ready in memory, which favours the peer."""

import torch
from torch import nn

from benchmarks.peers.nets import CROPS, NETS
from benchmarks.turns import Turns


def plain(net: str, num_classes: int, batch: int, threads: int, turns: Turns) -> None:
    """Runs the step as a user writes it: fp32, torch's layout and LRN, SGD with momentum."""
    torch.set_num_threads(threads)
    model = NETS[net](num_classes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, weight_decay=5e-4)
    images, labels = torch.randn(batch, 3, CROPS[net], CROPS[net]), torch.randint(0, num_classes, (batch,))

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    turns.play(step)


def tuned(net: str, num_classes: int, batch: int, threads: int, turns: Turns) -> None:
    """Runs the step with all that PyTorch offers by a flag: channels_last, bf16 autocast, fused SGD; torch's LRN."""
    torch.set_num_threads(threads)
    model = NETS[net](num_classes).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, weight_decay=5e-4, fused=True)
    images = torch.randn(batch, 3, CROPS[net], CROPS[net]).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, num_classes, (batch,))

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(images)
        nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    turns.play(step)
