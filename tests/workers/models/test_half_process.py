"""Two real processes, each with one half's weights alone, train as the grouped net does."""

import os
import sys
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from at_once import at_once
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from workers.models import build, initialise, parts_of
from workers.models.halves import Half
from workers.settings import InitSettings, Layout, ModelSettings, OptimizerSettings
from workers.training import build_optimizer, mean_loss

# Dropout, of which both processes draw one mask; an odd number of classes, of which the first half has one more.
SMALL = ModelSettings(input_size=28, width=0.1, conv1_kernel=5, conv1_stride=1, fc_units=24, num_convs=6)
MODEL = replace(SMALL, lrn_alpha=0.3, lrn_across_halves=False)
NUM_CLASSES, UPDATES = 7, 3
BOUNDS = {torch.double: 1e-12, torch.float: 1e-5}
# What is frozen, and in which precision.
CASES = [((), torch.double), ((), torch.float), (("conv1", "conv2"), torch.double)]
Outcome = dict[str, Any]


def drawn(layout: Layout) -> nn.Module:
    net = build(replace(MODEL, layout=layout), NUM_CLASSES).to(memory_format=torch.channels_last)
    initialise(net, InitSettings(bias=0.1), seed=3)
    return net


def trained(model: nn.Module, forward: Any, freeze: tuple[str, ...], dtype: torch.dtype) -> Outcome:
    """Weights by name and logits of each update, as arrays."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(UPDATES, 8, 3, 28, 28, generator=generator).to(dtype)
    labels = torch.randint(NUM_CLASSES, (UPDATES, 8), generator=generator)
    optimizer, seen = build_optimizer(model.to(dtype).train(), OptimizerSettings(lr=0.05), freeze, {}), []
    for step in range(UPDATES):
        torch.manual_seed(step)
        logits = forward(images[step].contiguous(memory_format=torch.channels_last))
        seen.append(logits.detach().numpy())
        optimizer.zero_grad()
        mean_loss(logits, labels[step]).backward()
        optimizer.step()
    return {"logits": seen, "weights": {name: one.detach().numpy() for name, one in model.named_parameters()}}


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


def _train_half(index: int, weights: dict[str, Any], meeting: str, _barrier: Any, outcome: Any) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    store = dist.FileStore(meeting, 2)
    dist.init_process_group("gloo", store=store, rank=index, world_size=2, timeout=timedelta(seconds=60))
    found = []
    for case in CASES:
        half = Half(replace(MODEL, layout=Layout.halves), NUM_CLASSES, index).to(memory_format=torch.channels_last)
        half.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
        found.append(trained(half, lambda images, half=half: logits_of(half, images), *case))
    outcome.put((index, found))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Outcome, Outcome]]:
    """All cases, by the same two processes: most of their time goes into loading torch."""
    meeting = str(tmp_path_factory.mktemp("halves") / "meeting")
    own = [
        {name: one.detach().numpy() for name, one in half.named_parameters()} for half in drawn(Layout.halves).halves
    ]
    (_, first), (_, second) = sorted(at_once(_train_half, [(index, own[index], meeting) for index in range(2)]))
    return list(zip(first, second, strict=True))


@pytest.mark.parametrize("case", range(len(CASES)))
def test_two_processes_with_a_half_each_end_with_the_grouped_nets_weights(halves, case):
    freeze, dtype = CASES[case]
    net = drawn(Layout.grouped)
    before = {name: one.detach().clone().to(dtype) for name, one in net.named_parameters()}
    grouped, close = trained(net, net, freeze, dtype), {"rtol": BOUNDS[dtype], "atol": BOUNDS[dtype]}
    first, second = (torch.tensor(half["logits"]) for half in halves[case])
    assert torch.equal(first, second)
    torch.testing.assert_close(first, torch.tensor(grouped["logits"]), **close)
    shapes = {name: [tuple(part.shape) for part in parts] for name, parts in parts_of(drawn(Layout.halves)).items()}
    for name, weight in grouped["weights"].items():
        parts = [torch.from_numpy(half["weights"][name]) for half in halves[case]]
        assert [tuple(part.shape) for part in parts] == shapes[name]
        torch.testing.assert_close(torch.cat(parts), torch.from_numpy(weight), **close)
        assert torch.equal(torch.cat(parts), before[name]) is (name.partition(".")[0] in freeze)
