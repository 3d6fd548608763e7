"""Loads what torch leaves for later, so that no stage's first update has to wait for it."""

import torch


def warm_up() -> None:
    """Makes an optimizer and drops it: the first one in a process loads torch's compiler, 1 s."""
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
