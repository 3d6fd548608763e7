"""Ten-crop (Krizhevsky et al. 2012, §4.1): the mean softmax over five windows and their reflections; or the centre.

The whole image is normalised and reflected once, and its windows go through the net as one batch. A window of the
reflected image is the reflection of a window, and the five offsets are symmetric, so ten crops are five windows of two
images.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from workers import numerics
from workers.data.loading import PixelStatistics, to_input
from workers.inference.shared_windows import Offset, logits_of_windows, shared_convs, stack
from workers.models import AlexNet
from workers.protocol import Numerics
from workers.settings import Crops, TrainingSettings


def crop_offsets(margin: int) -> list[Offset]:
    """Returns top and left of the corner and centre windows, in the release's order; just one if `margin` is 0."""
    corners = [(0, 0), (0, margin), (margin // 2, margin // 2), (margin, 0), (margin, margin)]
    return list(dict.fromkeys(corners))


@dataclass(frozen=True)
class TrainedMember:
    """A member that is ready to predict; `model` is in evaluation mode, on the device of `numerics`."""

    model: nn.Module
    statistics: PixelStatistics
    settings: TrainingSettings
    numerics: Numerics
    checkpoint: str
    checkpoint_sha256: str


def mean_over_crops(member: TrainedMember, images: np.ndarray, crops: Crops) -> np.ndarray:
    """Returns the mean softmax over the windows and, if training reflected them, their reflections.

    If the model is an AlexNet and the windows align with its strides, they share its first convolutions
    (workers.inference.shared_windows). The result equals one forward pass per crop to rounding.

    Args:
        member: the net, and how it saw pixels.
        images: [batch, side, side, 3] uint8.
        crops: ten, or the centre, which is never reflected.

    Returns:
        [batch, classes] float32; each row sums to 1.
    """
    size, reflect = member.settings.model.input_size, member.settings.augmentation.reflect
    margin = images.shape[1] - size
    offsets = crop_offsets(margin)
    if crops is Crops.centre:
        offsets, reflect = [(margin // 2, margin // 2)], False
    with torch.inference_mode(), numerics.autocast(member.numerics):
        inputs = _both_sides(images, member.statistics, reflect=reflect, chosen=member.numerics)
        logits = _logits(member.model, inputs, offsets, size)
        probabilities = logits.double().softmax(dim=1)
        views = probabilities.view(-1, len(images), logits.shape[1])
        mean: np.ndarray = views.mean(dim=0).float().cpu().numpy()
    return mean


def _logits(model: nn.Module, inputs: Tensor, offsets: list[Offset], size: int) -> Tensor:
    if isinstance(model, AlexNet):
        shared = shared_convs(model.shareable, offsets, size)
        if shared:
            return logits_of_windows(model, inputs, offsets, size, shared)
    logits: Tensor = model(stack(inputs, offsets, size))
    return logits


def _both_sides(images: np.ndarray, statistics: PixelStatistics, *, reflect: bool, chosen: Numerics) -> Tensor:
    """Normalises images and appends their reflections: [batch or 2 · batch, 3, side, side] in channels_last order.

    They have the precision of the first convolution, which would otherwise convert each of its inputs.
    """
    precision = torch.bfloat16 if chosen.precision == "bf16" else torch.float32
    # Copied, because torch takes no read-only array.
    pixels = torch.from_numpy(np.array(images)).to(chosen.device)
    inputs = to_input(pixels, statistics).to(precision)
    if not reflect:
        return inputs
    return torch.cat([inputs, inputs.flip(3)]).contiguous(memory_format=torch.channels_last)
