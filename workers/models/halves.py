"""AlexNet on two devices (Krizhevsky et al. 2012, §3.2 and figure 2): each half owns only its own weights.

A half has half the outputs of every layer. Convolutions 2, 4 and 5 see only their own half's channels. Before the other
convolutions and each fully connected layer the halves' outputs are concatenated, and both halves read the whole. So in
every layer the grouped net's weight is the halves' weights concatenated along the outputs (workers.models.parts), and
the two nets are equal to rounding.
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
    """The layers between two exchanges of the halves: convolutions by index, or a fully connected layer by name.

    Dropout after a hidden layer has one mask for the whole, the same that the grouped net draws. `widths` are the
    outputs of the two halves. If the number is odd, the first half has one more.
    """

    widths: tuple[int, int]
    convs: tuple[int, ...] = ()
    linear: str = ""


def half_geometry(whole: Geometry, index: int) -> Geometry:
    """Returns the layers of half `index`, 0 or 1."""

    def halved(conv: Conv) -> Conv:
        seen, made = conv.in_channels // conv.groups, _widths(conv.out_channels)[index]
        return replace(conv, in_channels=seen, out_channels=made, groups=1)

    linears = tuple(Linear(one.name, one.in_features, _widths(one.out_features)[index]) for one in whole.linears)
    return Geometry(tuple(halved(conv) for conv in whole.convs), linears)


def _segments(whole: Geometry) -> Iterator[Segment]:
    # A convolution of one group sees both halves. conv1 has one group too, and begins the first segment.
    begins = [index for index, conv in enumerate(whole.convs) if conv.groups == 1]
    for begin, end in zip(begins, (*begins[1:], len(whole.convs)), strict=True):
        yield Segment(_widths(whole.convs[end - 1].out_channels), convs=tuple(range(begin, end)))
    for linear in whole.linears:
        yield Segment(_widths(linear.out_features), linear=linear.name)


def _widths(outputs: int) -> tuple[int, int]:
    return (outputs + 1) // NUM_HALVES, outputs // NUM_HALVES


class Half(Layers):
    """The layers of one half, named as in the whole net; it normalises only its own channels.

    ModelSettings raise an error if `lrn_across_halves` would normalise across both halves.
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
        """Computes this half's outputs of `segment` from both halves' outputs of the segment before (or the images)."""
        hidden = whole
        for index in segment.convs:
            hidden = self.convolve(index, hidden)
        return self.connect(segment.linear, hidden.flatten(1)) if segment.linear else hidden


class HalvedAlexNet(nn.Module):
    """Both halves in one process, on the devices that `place` chose.

    At an exchange the second half's output is copied to the first's device, and the whole back. On two GPUs the halves
    should compute at the same time, since neither call waits for the other's device. This has not been run: tests put
    both halves on the CPU, or simulate two GPUs.
    """

    def __init__(self, model: ModelSettings, num_classes: int) -> None:
        super().__init__()
        self._model, self._num_classes = model, num_classes
        self.first, self.second = (Half(model, num_classes, index) for index in range(NUM_HALVES))

    @property
    def halves(self) -> tuple[Half, Half]:
        return self.first, self.second

    def as_grouped(self) -> AlexNet:
        """Builds the same net for one device, with weights of its own that are not drawn yet."""
        return AlexNet(replace(self._model, layout=Layout.grouped), self._num_classes)

    def place(self, device: str) -> None:
        """Moves both halves to `device`; for "cuda", each to a GPU of its own if this process has two."""
        apart = device == "cuda" and torch.cuda.device_count() >= NUM_HALVES
        for half in self.halves:
            half.to(f"cuda:{half.index}" if apart else device)

    def forward(self, images: Tensor) -> Tensor:
        """Takes normalised [batch, 3, size, size], returns logits [batch, classes] on the first half's device."""
        whole = images
        for segment in self.first.segments:
            parts = [half(whole.to(half.device), segment) for half in self.halves]
            whole = torch.cat([part.to(self.first.device) for part in parts], dim=1)
            whole = self.first.drop(whole) if segment.linear in HIDDEN else whole
        return whole
