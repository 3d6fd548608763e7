"""Windows of one image share the first convolutions: only what a window's own border of zeros changes is done again.

A window that begins at a multiple of a convolution's stride times its pooling's is, in the pooled output, a window of
the whole image's output, but for the outputs whose receptive field reaches over the window's edge: there the window has
zeros and the image has pixels. Those are computed anew on strips, a few pixels wide, cut from the window. The next
convolution is shared alike, with wider strips.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.models import POOL_STRIDE, AlexNet, Conv

Offset = tuple[int, int]

# Shared work must be below this share of the windows' own, in outputs of the convolution: strips are narrow, and
# pasting them costs copies.
_WORTH = 0.8


@dataclass(frozen=True)
class Strip:
    """Outputs of one window that are computed anew: `count` rows (`axis` 0) or columns (1), from `first` on."""

    window: int
    axis: int
    first: int
    count: int


@dataclass(frozen=True)
class SharedConv:
    """A pooled convolution that windows share.

    Attributes:
        conv: its geometry in a window.
        offsets: top and left of each window, in its pooled output.
        side: of a window's pooled output.
        strips: what is computed anew.
    """

    conv: Conv
    offsets: tuple[Offset, ...]
    side: int
    strips: tuple[Strip, ...]

    def span(self, first: int, count: int) -> tuple[int, int]:
        """Where the receptive field of `count` pooled outputs begins, in a window's input, and how long it is."""
        begin = POOL_STRIDE * first * self.conv.stride - self.conv.padding
        convolved = POOL_STRIDE * (count - 1) + self.conv.pool
        return begin, (convolved - 1) * self.conv.stride + self.conv.kernel


def shared_convs(convs: Sequence[Conv], offsets: Sequence[Offset], size: int) -> tuple[SharedConv, ...]:
    """The leading convolutions worth sharing between windows of `size` pixels; none where the windows do not align.

    Args:
        convs: the net's convolutions, in order, as a window sees them.
        offsets: top and left of each window in the image; the largest is at the image's far edge.
        size: side of a window in pixels.
    """
    found: list[SharedConv] = []
    margin = max(max(offset) for offset in offsets)
    # How many of a window's inputs, from its near and its far edge, are not the image's.
    near = far = 0
    for conv in convs:
        step = conv.stride * POOL_STRIDE
        if margin == 0 or not conv.pool or any(place % step for offset in offsets for place in offset):
            break
        side = conv.pooled_size
        # Output i of the convolution sees inputs i · stride − padding onwards; pooled output j sees i = 2j … 2j + 2.
        changed = -(-(near + conv.padding) // conv.stride)
        near = -(-changed // POOL_STRIDE)
        unchanged = -(-(size - far + conv.padding - conv.kernel + 1) // conv.stride)
        far = side - max(0, min(side, -(-(unchanged - conv.pool + 1) // POOL_STRIDE)))
        strips = tuple(_strips(offsets, margin, side, near, far))
        offsets = tuple((top // step, left // step) for top, left in offsets)
        size, margin = side, margin // step
        shared = SharedConv(conv, tuple(offsets), side, strips)
        if max(near, far) >= side or not _pays(shared, margin):
            break
        found.append(shared)
    return tuple(found)


def logits_of_windows(
    model: AlexNet, images: Tensor, offsets: Sequence[Offset], size: int, shared: Sequence[SharedConv]
) -> Tensor:
    """What `model` says of each window, as if it were given each of them.

    Args:
        model: in evaluation mode.
        images: normalised [batch, 3, side, side], channels_last.
        offsets: top and left of each window.
        size: side of a window in pixels.
        shared: what `shared_convs` found for these windows.

    Returns:
        [windows · batch, classes]: the first window of every image, then the second, ….
    """
    windows = [images[:, :, top : top + size, left : left + size] for top, left in offsets]
    whole = images
    for index, conv in enumerate(shared):
        # All strips of an axis at once: many narrow convolutions cost their calls.
        axes = sorted({strip.axis for strip in conv.strips})
        repaired = {axis: model.convolve(index, _cut(conv, windows, axis), padded=False) for axis in axes}
        whole = model.convolve(index, whole)
        hidden = stack(whole, conv.offsets, conv.side)
        windows = list(hidden.chunk(len(offsets)))
        for axis, outputs in repaired.items():
            _paste(conv, windows, axis, outputs)
    return model.classify(hidden, first=len(shared))


def stack(images: Tensor, offsets: Sequence[Offset], size: int) -> Tensor:
    """The windows of each image as one batch [windows · batch, channels, size, size] in channels_last order."""
    batch, channels = images.shape[:2]
    stacked = _empty(len(offsets) * batch, channels, size, size, images)
    for index, (top, left) in enumerate(offsets):
        stacked[index * batch : (index + 1) * batch] = images[:, :, top : top + size, left : left + size]
    return stacked


def _strips(offsets: Sequence[Offset], margin: int, side: int, near: int, far: int) -> Iterator[Strip]:
    # At the image's own edges its zeros are the window's. Strips of an axis are equally wide, to go through the net
    # as one batch.
    count = max(near, far)
    for index, offset in enumerate(offsets):
        for axis, place in enumerate(offset):
            if near and place > 0:
                yield Strip(index, axis, 0, count)
            if far and place < margin:
                yield Strip(index, axis, side - count, count)


def _pays(shared: SharedConv, margin: int) -> bool:
    """Whether the whole image and the strips have well below the windows' outputs."""
    size = shared.conv.size
    whole = (size + POOL_STRIDE * margin) ** 2
    strips = sum((POOL_STRIDE * (strip.count - 1) + shared.conv.pool) * size for strip in shared.strips)
    return whole + strips < _WORTH * len(shared.offsets) * size**2


def _cut(shared: SharedConv, windows: Sequence[Tensor], axis: int) -> Tensor:
    """The inputs of the strips along one axis as one batch, each with the zeros that its window has around it."""
    strips = [strip for strip in shared.strips if strip.axis == axis]
    batch, channels = windows[0].shape[:2]
    along, length = shared.span(0, shared.side)
    _, width = shared.span(0, strips[0].count)
    height, width = (width, length) if axis == 0 else (length, width)
    inputs = _empty(len(strips) * batch, channels, height, width, windows[0]).zero_()
    for index, strip in enumerate(strips):
        across, _ = shared.span(strip.first, strip.count)
        top, left = (across, along) if axis == 0 else (along, across)
        inside = windows[strip.window][:, :, max(top, 0) : top + height, max(left, 0) : left + width]
        place = inputs[index * batch : (index + 1) * batch, :, max(-top, 0) :, max(-left, 0) :]
        place[:, :, : inside.shape[2], : inside.shape[3]] = inside
    return inputs


def _paste(shared: SharedConv, windows: Sequence[Tensor], axis: int, outputs: Tensor) -> None:
    strips = [strip for strip in shared.strips if strip.axis == axis]
    for strip, output in zip(strips, outputs.chunk(len(strips)), strict=True):
        windows[strip.window].narrow(2 + axis, strip.first, strip.count).copy_(output)


def _empty(batch: int, channels: int, height: int, width: int, like: Tensor) -> Tensor:
    """Uninitialised, in channels_last order."""
    shape = (batch, channels, height, width)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
