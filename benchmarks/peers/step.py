"""Times training steps in plain PyTorch on a batch that is ready on the device, which favours the peer."""

from collections.abc import Callable

import torch
from torch import nn

from benchmarks.peers.nets import CROPS, NETS
from benchmarks.turns import Turns


def plain(
    net: str, num_classes: int, batch: int, threads: int, turns: Turns, device: str = "cpu", steps: int = 1
) -> None:
    """Runs the step as a user writes it: fp32, torch's layout and LRN, SGD with momentum; `steps` make one turn."""
    torch.set_num_threads(threads)
    model = NETS[net](num_classes).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, weight_decay=5e-4)
    images, labels = _batch(net, num_classes, batch, device)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    turns.play(_repeated(step, device, steps))


def plain_without_tf32(
    net: str, num_classes: int, batch: int, threads: int, turns: Turns, device: str = "cpu", steps: int = 1
) -> None:
    """Runs `plain` without TF32, which torch allows in convolutions by default."""
    torch.backends.cudnn.allow_tf32 = False
    plain(net, num_classes, batch, threads, turns, device, steps)


def tuned_fp32(net: str, num_classes: int, batch: int, threads: int, turns: Turns) -> None:
    """Runs `tuned` without autocast, which is faster for some nets on CPUs."""
    tuned(net, num_classes, batch, threads, turns, bf16=False)


def tuned(
    net: str,
    num_classes: int,
    batch: int,
    threads: int,
    turns: Turns,
    device: str = "cpu",
    steps: int = 1,
    *,
    bf16: bool = True,
) -> None:
    """Runs the step with all that PyTorch offers by a flag: channels_last, bf16 autocast, fused SGD; torch's LRN."""
    torch.set_num_threads(threads)
    model = NETS[net](num_classes).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, weight_decay=5e-4, fused=True)
    images, labels = _batch(net, num_classes, batch, device)
    images = images.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
            logits = model(images)
        nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    turns.play(_repeated(step, device, steps))


def _batch(net: str, num_classes: int, batch: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = torch.randn(batch, 3, CROPS[net], CROPS[net]), torch.randint(0, num_classes, (batch,))
    return images.to(device), labels.to(device)


def _repeated(step: Callable[[], None], device: str, steps: int) -> Callable[[], None]:
    """Returns the work of one turn, which ends when the device is done."""

    def work() -> None:
        for _ in range(steps):
            step()
        if device == "cuda":
            torch.cuda.synchronize()

    return work
