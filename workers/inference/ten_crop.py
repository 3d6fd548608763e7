"""Ten-crop (Krizhevsky et al. 2012, §4.1): the mean softmax over five windows and their reflections; or other views.

The whole image is normalised and reflected once, and its windows go through the net as one batch. A window of the
reflected image is the reflection of a window, and the five offsets are symmetric, so ten crops are five windows of two
images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from workers import numerics
from workers.data.decoding import stored_shape
from workers.data.loading import PixelStatistics, to_input
from workers.data.store import centre_square
from workers.inference.shared_windows import Offset, logits_of_windows, shared_convs, stack
from workers.kernels import resize
from workers.models import AlexNet
from workers.protocol import Numerics
from workers.settings import Crops, Keep, TrainingSettings

# The shorter side of an image in sevenths of a window's: for windows of 224 pixels 224, 256, 288, 320 and 352, the last
# four of which are Szegedy et al.'s (2014, §7), like the three places along the longer side.
_SCALES = (7, 8, 9, 10, 11)
# On CPUs views go through a net 16 at a time, at 224 pixels; the 320 of 32 images would take more memory than training
# did, and a sixth longer to twice as long (docs/benchmarks.md).
_PIXELS_AT_ONCE = 16 * 224**2


def crop_offsets(margin: int) -> list[Offset]:
    """Returns top and left of the corner and centre windows, in the release's order; just one if `margin` is 0."""
    corners = [(0, 0), (0, margin), (margin // 2, margin // 2), (margin, 0), (margin, margin)]
    return list(dict.fromkeys(corners))


def windows_at_scales(image: np.ndarray, size: int) -> np.ndarray:
    """Cuts `size` × `size` windows out of [height, width, 3] uint8 at five scales: [windows, size, size, 3].

    The image is scaled as in preparation. Windows lie in the middle of its shorter side; along the longer one, at the
    start, in the middle and at the end. Of a square, only the middle is cut.
    """
    height, width = image.shape[:2]
    windows = []
    for sevenths in _SCALES:
        scaled = resize.to_shape(image, stored_shape(width, height, round(size * sevenths / 7), Keep.whole))
        down, across = (side - size for side in scaled.shape[:2])
        for place in (1,) if height == width else (0, 1, 2):
            top, left = (down * place // 2, across // 2) if height > width else (down // 2, across * place // 2)
            windows.append(scaled[top : top + size, left : left + size])
    return np.stack(windows)


@dataclass(frozen=True)
class TrainedMember:
    """A member that is ready to predict; `model` is in evaluation mode, on the device of `numerics`."""

    model: nn.Module
    statistics: PixelStatistics
    settings: TrainingSettings
    numerics: Numerics
    checkpoint: str
    checkpoint_sha256: str


def mean_over_crops(member: TrainedMember, images: Sequence[np.ndarray], crops: Crops) -> np.ndarray:
    """Returns the mean softmax over the windows and, if training reflected them, their reflections.

    All but `five_scales` see the centre square of a whole image.

    If the model is an AlexNet and the windows align with its strides, they share its first convolutions
    (workers.inference.shared_windows). The result equals one forward pass per crop to rounding.

    Args:
        member: the net, and how it saw pixels.
        images: each [height, width, 3] uint8, as prepared.
        crops: ten, or the centre, which is never reflected, or both; or `windows_at_scales`.

    Returns:
        [batch, classes] float32; each row sums to 1.
    """
    size = member.settings.model.input_size
    if crops is Crops.five_scales:
        # One image at a time: images of other shapes have other numbers of windows.
        return np.concatenate([_mean(member, windows_at_scales(image, size), [(0, 0)], 1) for image in images])
    squares = np.stack([centre_square(image, min(image.shape[:2])) for image in images])
    margin = squares.shape[1] - size
    offsets = crop_offsets(margin) if crops is Crops.ten else [(margin // 2, margin // 2)]
    return _mean(member, squares, offsets, len(squares), reflected=crops is not Crops.centre)


def _mean(
    member: TrainedMember, pixels: np.ndarray, offsets: list[Offset], num_images: int, *, reflected: bool = True
) -> np.ndarray:
    """Returns the mean over the windows of `pixels`, [num_images or 1 · views, side, side, 3] uint8, for each image."""
    reflect = reflected and member.settings.augmentation.reflect
    with torch.inference_mode(), numerics.autocast(member.numerics):
        inputs = _both_sides(pixels, member.statistics, reflect=reflect, chosen=member.numerics)
        logits = _logits(member.model, inputs, offsets, member.settings.model.input_size)
        probabilities = logits.double().softmax(dim=1)
        views = probabilities.view(-1, num_images, logits.shape[1])
        mean: np.ndarray = views.mean(dim=0).float().cpu().numpy()
    return mean


def _logits(model: nn.Module, inputs: Tensor, offsets: list[Offset], size: int) -> Tensor:
    if isinstance(model, AlexNet):
        shared = shared_convs(model.shareable, offsets, size)
        if shared:
            return logits_of_windows(model, inputs, offsets, size, shared)
    views = stack(inputs, offsets, size)
    at_once = max(1, _PIXELS_AT_ONCE // size**2) if views.device.type == "cpu" else len(views)
    return torch.cat([model(some) for some in torch.split(views, at_once)])


def _both_sides(images: np.ndarray, statistics: PixelStatistics, *, reflect: bool, chosen: Numerics) -> Tensor:
    """Normalises images and appends their reflections: [batch or 2 · batch, 3, side, side] in channels_last order.

    They have the precision of the first convolution, which would otherwise convert each of its inputs.
    """
    precision = numerics.convolution_dtype(chosen)
    inputs = to_input(torch.from_numpy(images).to(chosen.device), statistics).to(precision)
    if not reflect:
        return inputs
    return torch.cat([inputs, inputs.flip(3)]).contiguous(memory_format=torch.channels_last)
