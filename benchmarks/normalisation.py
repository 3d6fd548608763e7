"""Times local response normalisation, forward and backward, against torch's own, at AlexNet's two layers."""

from functools import partial

import torch
from torch import nn

from benchmarks.numerics import fastest
from benchmarks.row import Measure, Row, Settings, Spread
from benchmarks.turns import Turns, ratios, take_turns
from workers import numerics
from workers.models import LocalResponseNorm

_BATCH = 16


def _play(layer: nn.Module, images: torch.Tensor, turns: Turns) -> None:
    def step() -> None:
        images.grad = None
        layer(images).sum().backward()

    turns.play(step)


def _images(channels: int, side: int) -> torch.Tensor:
    return torch.randn(_BATCH, channels, side, side, generator=torch.Generator().manual_seed(0))


def _ours(channels: int, side: int, turns: Turns) -> None:
    numerics.apply(fastest(threads=1))
    images = _images(channels, side).contiguous(memory_format=torch.channels_last).requires_grad_()
    _play(LocalResponseNorm(channels, size=5, alpha=1e-4, beta=0.75, k=2.0), images, turns)


def _peer(channels: int, side: int, turns: Turns) -> None:
    torch.set_num_threads(1)
    _play(nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0), _images(channels, side).requires_grad_(), turns)


def run(settings: Settings) -> tuple[Row, ...]:
    """Measures both layers on [16, channels, side, side] float32, each side in its best layout, one thread."""
    return tuple(_row(settings, name, *shape) for name, shape in {"conv1": (96, 55), "conv2": (256, 27)}.items())


def _row(settings: Settings, name: str, channels: int, side: int) -> Row:
    contestants = {"ours": partial(_ours, channels, side), "peer": partial(_peer, channels, side)}
    readings = take_turns(contestants, settings.repeats)
    milliseconds = {side: 1e3 * Spread.of(values).median for side, values in readings.items()}
    return Row(
        name=f"LRN of {name}, forward and backward, fp32, beside torch's",
        unit="ms",
        ours=milliseconds["ours"],
        peer=milliseconds["peer"],
        limit=None,
        ratio=Spread.of(ratios(readings, "peer", "ours")),
        measure=Measure.times,
        wanted=None,
        repeats=settings.repeats,
        note=f"batch {_BATCH}, 1 thread",
    )
