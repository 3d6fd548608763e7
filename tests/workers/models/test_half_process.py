"""Two real processes, each with one half's weights alone, train as the grouped net does."""

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from workers.models import build, initialise, parts_of
from workers.models.halves import HalvedAlexNet
from workers.settings import InitSettings, Layout, ModelSettings, OptimizerSettings
from workers.training import build_optimizer, mean_loss

WORKER = Path(__file__).with_name("half_worker.py")
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
# Dropout, of which both processes draw one mask; an odd number of classes, of which the first half has one more.
SMALL = ModelSettings(input_size=28, width=0.1, conv1_kernel=5, conv1_stride=1, fc_units=24, num_convs=6)
MODEL = replace(SMALL, lrn_alpha=0.3, lrn_across_halves=False)
NUM_CLASSES, UPDATES = 7, 3
BOUNDS = {torch.double: 1e-12, torch.float: 1e-5}
# What is frozen, and in which precision.
CASES = [((), torch.double), ((), torch.float), (("conv1", "conv2"), torch.double)]


@dataclass(frozen=True)
class Trained:
    """What a task was, and what each process has made of it."""

    task: dict[str, Any]
    halves: list[dict[str, Any]]


def drawn(layout: Layout) -> nn.Module:
    net = build(replace(MODEL, layout=layout), NUM_CLASSES).to(memory_format=torch.channels_last)
    initialise(net, InitSettings(bias=0.1), seed=3)
    return net


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(UPDATES, 8, 3, 28, 28, generator=generator)
    labels = torch.randint(NUM_CLASSES, (UPDATES, 8), generator=generator)
    return [(one.contiguous(memory_format=torch.channels_last), of) for one, of in zip(images, labels, strict=True)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[Trained]:
    """All cases, by the same two processes: most of their time goes into loading torch."""
    folder = tmp_path_factory.mktemp("halves")
    common = {"model": replace(MODEL, layout=Layout.halves), "num_classes": NUM_CLASSES, "batches": batches()}
    common["optimizer"] = OptimizerSettings(lr=0.05)
    tasks = [{**common, "freeze": freeze, "dtype": dtype} for freeze, dtype in CASES]
    torch.save(tasks, folder / "tasks.pt")
    halved = drawn(Layout.halves)
    assert isinstance(halved, HalvedAlexNet)
    for half in halved.halves:
        torch.save({name: one.detach() for name, one in half.named_parameters()}, folder / f"half-{half.index}.pt")
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": LOOPBACK, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(folder), str(index)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for index in range(2)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        # One that waits for another that has failed.
        for process in processes:
            process.kill()
    results = [torch.load(folder / f"after-{index}.pt") for index in range(2)]
    return [Trained(task, list(halves)) for task, halves in zip(tasks, zip(*results, strict=True), strict=True)]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_two_processes_with_a_half_each_end_with_the_grouped_nets_weights(trained: list[Trained], case: int) -> None:
    task, halves = trained[case].task, trained[case].halves
    bound = BOUNDS[task["dtype"]]
    net = drawn(Layout.grouped)
    before = {name: one.detach().clone().to(task["dtype"]) for name, one in net.named_parameters()}
    net.to(task["dtype"])
    optimizer = build_optimizer(net, task["optimizer"], task["freeze"], {})
    for step, (images, labels) in enumerate(task["batches"]):
        torch.manual_seed(step)
        logits = net.train()(images.to(task["dtype"]))
        assert torch.equal(halves[0]["logits"][step], halves[1]["logits"][step])
        torch.testing.assert_close(halves[0]["logits"][step], logits.detach(), rtol=bound, atol=bound)
        optimizer.zero_grad()
        mean_loss(logits, labels).backward()
        optimizer.step()
    for name, weight in net.named_parameters():
        joined = torch.cat([half["weights"][name] for half in halves])
        torch.testing.assert_close(joined, weight.detach(), rtol=bound, atol=bound)
        assert torch.equal(joined, before[name]) is (name.partition(".")[0] in task["freeze"])


def test_each_process_owns_its_half_and_nothing_of_the_other(trained: list[Trained]) -> None:
    shapes = {name: [tuple(part.shape) for part in parts] for name, parts in parts_of(drawn(Layout.halves)).items()}
    for one in trained:
        for index, half in enumerate(one.halves):
            owned = {name: tuple(weight.shape) for name, weight in half["weights"].items()}
            assert owned == {name: parts[index] for name, parts in shapes.items()}
    first, second = (sum(weight.numel() for weight in half["weights"].values()) for half in trained[0].halves)
    total = sum(weight.numel() for weight in drawn(Layout.grouped).parameters())
    # The odd class's weights and bias.
    assert (first + second, first - second) == (total, MODEL.fc_units + 1)
