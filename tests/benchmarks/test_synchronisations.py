"""The counter of host synchronisations: each way to read a value counts once, and work on tensors alone counts none."""

import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from synchronisations import synchronisations
from torch import Tensor, nn


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.sum() > 0),
        lambda x: float(x.sum()),
        lambda x: int(x.sum()),
        lambda x: x.cpu(),
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: np.asarray(x),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.equal(x, x),
        lambda x: 1 if x.sum() else 0,
    ],
)
def test_each_way_to_read_a_value_counts_once(read: Callable[[Tensor], object]) -> None:
    values = torch.arange(4.0)
    with synchronisations() as found:
        read(values)
    assert found.count == 1, found.places
    assert "test_synchronisations.py:" in found.places[0]


def test_a_training_step_on_tensors_alone_counts_none() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(4 * 36, 5))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, fused=True)
    images, labels, total = torch.randn(2, 3, 8, 8), torch.tensor([1, 2]), torch.zeros(())

    def step(read: bool) -> None:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(images), labels)
        loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in net.parameters() if p.grad is not None])
        total.add_(torch.where(torch.isfinite(norm), loss.detach(), norm))
        if read:
            loss.item()
        optimizer.step()

    with synchronisations() as found:
        step(read=False)
    assert found.places == []
    with synchronisations() as found:
        step(read=True)
    assert found.count == 1


def test_a_wait_of_another_thread_is_not_counted() -> None:
    values = torch.ones(3)
    with synchronisations() as found:
        thread = threading.Thread(target=lambda: (values.numpy(), values.sum().item()))
        thread.start()
        thread.join()
    assert found.count == 0


def test_methods_are_as_before_after_the_block() -> None:
    before = torch.Tensor.cpu, torch.Tensor.numpy, torch.Tensor.tolist
    with synchronisations() as found:
        pass
    torch.ones(1).cpu()
    assert before == (torch.Tensor.cpu, torch.Tensor.numpy, torch.Tensor.tolist)
    assert found.count == 0
