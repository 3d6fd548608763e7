"""The ensemble as one graph: from uint8 squares through normalisation, views and nets to combined probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from workers.inference import SCALES, TrainedMember, crop_offsets
from workers.kernels import resize
from workers.settings import Crops


@dataclass(frozen=True)
class Combining:
    """How members' probabilities are combined, in numbers.

    Attributes:
        factors: a weight for each member, or for each (member, class, class).
        of_logs: the logarithms are summed, and the sums go through a softmax; else the probabilities.
        of_ranks: Borda's points of the classes are summed in place of their probabilities.
        constants: a number for each class, or 0; added to sums of logarithms.
        correction: factors and constants of the logarithms of what was combined, and a softmax; None for none.
        smallest: floor of a probability before its logarithm.
    """

    factors: Sequence[Any]
    of_logs: bool
    of_ranks: bool
    constants: Sequence[float] | float
    correction: tuple[Any, Any] | None
    smallest: float


class EnsembleGraph(nn.Module):
    """Takes [batch, side, side, 3] uint8; returns [batch, classes] and, of each member, [members, batch, classes].

    Both are float32. Sums are made in float64 and rounded to float32 where prediction rounds them.
    """

    factors: Tensor
    constants: Tensor
    correction_scale: Tensor
    correction_offset: Tensor

    def __init__(self, members: Sequence[TrainedMember], crops: Crops, side: int, combining: Combining) -> None:
        super().__init__()
        self.members = nn.ModuleList(_MemberGraph(member, crops, side) for member in members)
        self.combining = combining
        self.register_buffer("factors", torch.tensor(combining.factors, dtype=torch.float64))
        self.register_buffer("constants", torch.tensor(combining.constants, dtype=torch.float64))
        scale, offset = combining.correction or (1.0, 0.0)
        self.register_buffer("correction_scale", torch.tensor(scale, dtype=torch.float64))
        self.register_buffer("correction_offset", torch.tensor(offset, dtype=torch.float64))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        members = torch.stack([member(pixels) for member in self.members])
        how, terms = self.combining, members.double()
        if how.of_ranks:
            terms = _points(terms)
        if how.of_logs:
            terms = terms.clamp_min(how.smallest).log()
        if self.factors.ndim == 3:
            total = torch.matmul(terms, self.factors.transpose(1, 2)).sum(0)
        else:
            total = (terms * self.factors[:, None, None]).sum(0)
        if how.of_logs:
            total = (total + self.constants).softmax(1)
        combined = total.float()
        if how.correction:
            logs = combined.double().clamp_min(how.smallest).log()
            combined = (logs * self.correction_scale + self.correction_offset).softmax(1).float()
        return combined, members


class _MemberGraph(nn.Module):
    """One member: its views of [batch, side, side, 3] uint8, its net, and the mean of their softmax, float32."""

    scale: Tensor
    offset: Tensor

    def __init__(self, member: TrainedMember, crops: Crops, side: int) -> None:
        super().__init__()
        size = member.settings.model.input_size
        self.net, self.size = member.model, size
        self.reflects = member.settings.augmentation.reflect and crops is not Crops.centre
        margin = side - size
        self.offsets = crop_offsets(margin) if crops is Crops.ten else [(margin // 2, margin // 2)]
        self.scaled_to = [round(size * sevenths / 7) for sevenths in SCALES] if crops is Crops.five_scales else []
        for scaled in self.scaled_to:
            self.register_buffer(f"resize_{scaled}", torch.from_numpy(resize.matrix(side, scaled)))
        statistics, seen = member.statistics, size if self.scaled_to else side
        image = statistics.mean_image
        scale = 1.0 / (255.0 * statistics.std) if image is None else torch.ones(3)
        self.register_buffer("scale", scale)
        self.register_buffer("offset", -statistics.mean / statistics.std if image is None else -image[:seen, :seen])

    def forward(self, pixels: Tensor) -> Tensor:
        if self.scaled_to:
            views = torch.cat([self._at_scale(pixels, scaled) for scaled in self.scaled_to])
        else:
            views = pixels.float()
        views = (views * self.scale + self.offset).permute(0, 3, 1, 2)
        # In the order of prediction, so that the mean sums alike.
        views = torch.cat([views, views.flip(3)]) if self.reflects else views
        if not self.scaled_to:
            size = self.size
            views = torch.cat([views[:, :, top : top + size, left : left + size] for top, left in self.offsets])
        probabilities = self.net(views).double().softmax(1)
        mean: Tensor = probabilities.view(-1, pixels.shape[0], probabilities.shape[1]).mean(0).float()
        return mean

    def _at_scale(self, pixels: Tensor, scaled: int) -> Tensor:
        """Returns the middle window of the squares at one scale: Pillow's bicubic, which rounds after each axis."""
        matrix = self.get_buffer(f"resize_{scaled}")
        across = _rounded(torch.matmul(matrix, pixels.double()))
        both = _rounded(torch.matmul(matrix, across.transpose(1, 2))).transpose(1, 2)
        first = (scaled - self.size) // 2
        return both[:, first : first + self.size, first : first + self.size].float()


def _rounded(levels: Tensor) -> Tensor:
    return torch.floor(levels + 0.5).clamp(0, 255)


def _points(probabilities: Tensor) -> Tensor:
    """Returns Borda's points of each class, divided by their sum; of equal ones the lower class comes first."""
    num_classes = probabilities.shape[-1]
    own, other = probabilities[..., :, None], probabilities[..., None, :]
    lower = torch.from_numpy(np.tri(num_classes, k=-1, dtype=bool))
    ahead = ((other > own) | ((other == own) & lower)).sum(-1)
    return (num_classes - ahead).double() / (num_classes * (num_classes + 1) / 2)
