"""Windows of one image share the first convolutions; only outputs at a window's edges are computed for each window.

If a window starts at a multiple of a convolution's stride times its pooling's, its pooled output is a window of the
whole image's output, except where a receptive field reaches past the window's edge: there the window has zeros and the
image has pixels. These outputs are computed again on strips, a few pixels wide, cut from the window. The next
convolution is shared in the same way, with wider strips.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.models import POOL_STRIDE, AlexNet, Conv

Offset = tuple[int, int]

# Sharing must compute less than this share of the windows' outputs, because narrow strips and their copies cost time.
_WORTH = 0.8


@dataclass(frozen=True)
class Strip:
    """Outputs of one window that are computed again: `count` rows (`axis` 0) or columns (1), from `first` on."""

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
        strips: the outputs that are computed again.
    """

    conv: Conv
    offsets: tuple[Offset, ...]
    side: int
    strips: tuple[Strip, ...]

    def span(self, first: int, count: int) -> tuple[int, int]:
        """Returns where the receptive field of `count` pooled outputs starts in a window's input, and its length."""
        begin = POOL_STRIDE * first * self.conv.stride - self.conv.padding
        convolved = POOL_STRIDE * (count - 1) + self.conv.pool
        return begin, (convolved - 1) * self.conv.stride + self.conv.kernel


def shared_convs(convs: Sequence[Conv], offsets: Sequence[Offset], size: int) -> tuple[SharedConv, ...]:
    """Returns the leading convolutions worth sharing between windows of `size` pixels; none if they do not align.

    Args:
        convs: the net's convolutions, in order, with the sizes of a window.
        offsets: top and left of each window in the image; the largest is at the image's far edge.
        size: side of a window in pixels.
    """
    found: list[SharedConv] = []
    margin = max(max(offset) for offset in offsets)
    # The number of a window's inputs, from its near and its far edge, that differ from the image's.
    near = far = 0
    for conv in convs:
        step = conv.stride * POOL_STRIDE
        if margin == 0 or not conv.pool or any(place % step for offset in offsets for place in offset):
            break
        side = conv.pooled_size
        # Output i of the convolution sees inputs from i · stride − padding on; pooled output j sees i = 2j … 2j + 2.
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
    """Computes the logits of every window, equal to a forward pass of each.

    Args:
        model: in evaluation mode.
        images: normalised [batch, 3, side, side], channels_last.
        offsets: top and left of each window.
        size: side of a window in pixels.
        shared: result of `shared_convs` for these windows.

    Returns:
        [windows · batch, classes]: the first window of every image, then the second, ….
    """
    windows = [images[:, :, top : top + size, left : left + size] for top, left in offsets]
    whole = images
    for index, conv in enumerate(shared):
        # All strips of an axis at once, because each call costs time.
        axes = sorted({strip.axis for strip in conv.strips})
        repaired = {axis: model.convolve(index, _cut(conv, windows, axis), padded=False) for axis in axes}
        whole = model.convolve(index, whole)
        hidden = stack(whole, conv.offsets, conv.side)
        windows = list(hidden.chunk(len(offsets)))
        for axis, outputs in repaired.items():
            _paste(conv, windows, axis, outputs)
    logits: Tensor = model(hidden, first=len(shared))
    return logits


def stack(images: Tensor, offsets: Sequence[Offset], size: int) -> Tensor:
    """Copies the windows of each image into one batch [windows · batch, channels, size, size], channels_last."""
    batch, channels = images.shape[:2]
    stacked = _empty(len(offsets) * batch, channels, size, size, images)
    for index, (top, left) in enumerate(offsets):
        stacked[index * batch : (index + 1) * batch] = images[:, :, top : top + size, left : left + size]
    return stacked


def _strips(offsets: Sequence[Offset], margin: int, side: int, near: int, far: int) -> Iterator[Strip]:
    # At the image's edges, image and window have the same zeros. Strips of an axis are equally wide, to be one batch.
    count = max(near, far)
    for index, offset in enumerate(offsets):
        for axis, place in enumerate(offset):
            if near and place > 0:
                yield Strip(index, axis, 0, count)
            if far and place < margin:
                yield Strip(index, axis, side - count, count)


def _pays(shared: SharedConv, margin: int) -> bool:
    """Returns whether the image and the strips have clearly fewer outputs than the windows."""
    size = shared.conv.size
    whole = (size + POOL_STRIDE * margin) ** 2
    strips = sum((POOL_STRIDE * (strip.count - 1) + shared.conv.pool) * size for strip in shared.strips)
    return whole + strips < _WORTH * len(shared.offsets) * size**2


def _cut(shared: SharedConv, windows: Sequence[Tensor], axis: int) -> Tensor:
    """Copies the inputs of the strips along one axis into one batch, with the zeros around their windows."""
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
    """Returns an uninitialised tensor in channels_last order."""
    shape = (batch, channels, height, width)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
