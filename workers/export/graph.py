"""The ensemble as one graph, from uint8 squares to combined probabilities: written by torch.export, and as ONNX."""

import io
import logging
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workers.errors import ConfigError
from workers.export.standalone import ONNX, PROGRAM
from workers.inference import TrainedMember, crop_offsets
from workers.settings import Crops
from workers.storage import replacing, write_text

# Above these bytes weights lie beside the ONNX graph: one protobuf message holds 2 GiB at most.
_MOST_INSIDE = 1 << 30


class Combining(nn.Module):
    """Combines [members, batch, classes] float32 to [batch, classes] with the sums and roundings of a submission.

    `factors` has a weight a member, or (member, class, class). With `constants`, for each class or 0, logarithms are
    summed, of at least `floor`, and go through a softmax; `correction` are factors and constants of another one.
    """

    def __init__(self, factors: Any, constants: Any, correction: Any, floor: float) -> None:
        super().__init__()
        self.floor = floor
        self.factors = torch.tensor(factors, dtype=torch.float64)
        self.constants = None if constants is None else torch.tensor(constants, dtype=torch.float64)
        self.correction = [torch.tensor(each, dtype=torch.float64) for each in correction or ()]

    def forward(self, members: Tensor) -> Tensor:
        terms, factors = members.double(), self.factors
        if self.constants is not None:
            terms = terms.clamp_min(self.floor).log()
        total = (terms @ factors.mT if factors.ndim == 3 else terms * factors[:, None, None]).sum(0)
        combined = (total if self.constants is None else (total + self.constants).softmax(1)).float()
        if self.correction:
            logs = combined.double().clamp_min(self.floor).log()
            combined = (logs * self.correction[0] + self.correction[1]).softmax(1).float()
        return combined


class EnsembleGraph(nn.Module):
    """Takes [batch, side, side, 3] uint8; returns [batch, classes], and each member's [members, batch, classes]."""

    def __init__(self, members: Sequence[TrainedMember], crops: Crops, side: int, combining: Combining) -> None:
        super().__init__()
        self.members = nn.ModuleList(_MemberGraph(member, crops, side) for member in members)
        self.combining = combining

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        members = torch.stack([member(pixels) for member in self.members])
        return self.combining(members), members


class _MemberGraph(nn.Module):
    """One member: normalises, cuts the views, and takes the mean of the net's softmax in the order of prediction."""

    def __init__(self, member: TrainedMember, crops: Crops, side: int) -> None:
        super().__init__()
        self.net, self.size, known = member.model, member.settings.model.input_size, member.statistics
        self.reflects = member.settings.augmentation.reflect and crops is not Crops.centre
        margin = side - self.size
        self.offsets = crop_offsets(margin) if crops is Crops.ten else [(margin // 2, margin // 2)]
        image = known.mean_image
        self.scale = 1.0 / (255.0 * known.std) if image is None else torch.ones(3)
        self.offset = -known.mean / known.std if image is None else -image

    def forward(self, pixels: Tensor) -> Tensor:
        seen = (pixels.float() * self.scale + self.offset).permute(0, 3, 1, 2)
        seen = torch.cat([seen, seen.flip(3)]) if self.reflects else seen
        size = self.size
        windows = torch.cat([seen[:, :, top : top + size, left : left + size] for top, left in self.offsets])
        views = self.net(windows).double().softmax(1)
        mean: Tensor = views.view(-1, pixels.shape[0], views.shape[1]).mean(0).float()
        return mean


def write_graphs(graph: EnsembleGraph, side: int, forms: Collection[str], to: Path) -> None:
    """Writes predict.py and `graph`, as a program ("torch"), as "onnx" or as both, to the folder `to`.

    Raises:
        ConfigError: torch cannot trace a net.
    """
    example, axes = torch.zeros(2, side, side, 3, dtype=torch.uint8), ({0: torch.export.Dim("batch")},)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(graph.eval(), (example,), dynamic_shapes=axes)
        except Exception as error:  # Of any type: nets are others' code.
            said = str(error).strip().partition("\n")[0]
            raise ConfigError(f"model: torch.export cannot trace a member's net: {said}") from error
        # It would be pickled beside the graph.
        program.example_inputs = None
        if "torch" in forms:
            # Torch's own writer ends the process where the disk is full.
            content = io.BytesIO()
            torch.export.save(program, content)
            with replacing(to / PROGRAM) as file:
                file.write(content.getbuffer())
        if "onnx" in forms:
            names: Any = {"input_names": ["pixels"], "output_names": ["probabilities", "members"]}
            written = torch.onnx.export(program, dynamo=True, opset_version=20, verbose=False, **names)
            large = sum(each.nbytes for each in graph.state_dict().values()) > _MOST_INSIDE
            written.save(str(to / ONNX), external_data=large)  # type: ignore[union-attr]
    write_text(to / "predict.py", Path(__file__).with_name("standalone.py").read_text(encoding="utf-8"))
