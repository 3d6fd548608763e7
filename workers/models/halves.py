"""AlexNet laid over two devices (Krizhevsky et al. 2012, §3.2 and figure 2): each half owns its own weights alone.

A half is a group of the grouped net: of every layer it has half the outputs. Convolutions 2, 4 and 5 see their own
half's channels; before the others, and before each fully connected layer, the halves meet: their outputs are put side
by side and both go on from the whole. So the grouped net's weight is the halves' weights one after the other along the
outputs, for every layer alike (workers.models.parts), and the two nets are equal to rounding.

Two ways through the halves: `HalvedAlexNet` steps both in one process, each on a device of its own;
workers.models.half_process has a process for each.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from workers.models.alexnet import HIDDEN, AlexNet, Layers
from workers.models.geometry import Conv, Geometry, Linear, geometry
from workers.settings import Layout, ModelSettings

NUM_HALVES = 2


@dataclass(frozen=True)
class Segment:
    """What a half computes between two meetings: convolutions by index, or a fully connected layer by name.

    `widths` are the outputs of the two halves; of an odd number of classes the first half has one more.
    """

    widths: tuple[int, int]
    convs: tuple[int, ...] = ()
    linear: str = ""

    @property
    def dropped(self) -> bool:
        """Whether dropout follows, on the whole: one mask for both halves, and the one that the grouped net draws."""
        return self.linear in HIDDEN


def half_geometry(whole: Geometry, index: int) -> Geometry:
    """The layers of half `index`, 0 or 1."""
    return Geometry(
        tuple(_half_conv(conv, index) for conv in whole.convs),
        tuple(Linear(one.name, one.in_features, _share(one.out_features, index)) for one in whole.linears),
    )


def _half_conv(conv: Conv, index: int) -> Conv:
    inputs, outputs = conv.in_channels // conv.groups, _share(conv.out_channels, index)
    return replace(conv, in_channels=inputs, out_channels=outputs, groups=1)


def _share(outputs: int, index: int) -> int:
    return (outputs + 1 - index) // NUM_HALVES


def _segments(whole: Geometry) -> Iterator[Segment]:
    # A convolution of one group sees both halves; conv1, which sees the image, begins the first segment alike.
    begins = [index for index, conv in enumerate(whole.convs) if conv.groups == 1]
    for begin, end in zip(begins, (*begins[1:], len(whole.convs)), strict=True):
        yield Segment(_widths(whole.convs[end - 1].out_channels), convs=tuple(range(begin, end)))
    for linear in whole.linears:
        yield Segment(_widths(linear.out_features), linear=linear.name)


def _widths(outputs: int) -> tuple[int, int]:
    return _share(outputs, 0), _share(outputs, 1)


class Half(Layers):
    """The layers of one half, named as the whole's; what it normalises is its own channels alone.

    ModelSettings refuse a half whose normalisation would have to look across (`lrn_across_halves`).
    """

    def __init__(self, model: ModelSettings, num_classes: int, index: int) -> None:
        alone = replace(model, layout=Layout.grouped, groups=1)
        whole = geometry(model, num_classes)
        super().__init__(alone, half_geometry(whole, index))
        self.index = index
        self.segments = tuple(_segments(whole))

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, whole: Tensor, segment: Segment) -> Tensor:
        """From both halves' outputs of the segment before (or the images) to this half's own of `segment`."""
        hidden = whole
        for index in segment.convs:
            hidden = self.convolve(index, hidden)
        return self.connect(segment.linear, hidden.flatten(1)) if segment.linear else hidden


class HalvedAlexNet(nn.Module):
    """Both halves in one process, on the devices where `place` has put them.

    Where they meet, the second half's output is copied to the first's device, and the whole back. On two GPUs the
    halves compute at the same time, since neither call waits for the other's device. That has not been run: tests have
    both halves on the CPU, and two GPUs that are simulated.
    """

    def __init__(self, model: ModelSettings, num_classes: int) -> None:
        super().__init__()
        self._model, self._num_classes = model, num_classes
        self.first, self.second = (Half(model, num_classes, index) for index in range(NUM_HALVES))

    @property
    def halves(self) -> tuple[Half, Half]:
        return self.first, self.second

    def as_grouped(self) -> AlexNet:
        """The same net on one device, with weights of its own that say nothing yet."""
        return AlexNet(replace(self._model, layout=Layout.grouped), self._num_classes)

    def place(self, device: str) -> None:
        """Moves both halves to `device`; for "cuda", each to a GPU of its own where this process has two."""
        apart = device == "cuda" and torch.cuda.device_count() >= NUM_HALVES
        for half in self.halves:
            half.to(f"cuda:{half.index}" if apart else device)

    def forward(self, images: Tensor) -> Tensor:
        """Takes normalised [batch, 3, size, size], gives logits [batch, classes] on the first half's device."""
        whole = images
        for segment in self.first.segments:
            parts = [half(whole.to(half.device), segment) for half in self.halves]
            whole = torch.cat([part.to(self.first.device) for part in parts], dim=1)
            whole = self.first.drop(whole) if segment.dropped else whole
        return whole
