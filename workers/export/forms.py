"""Writes the ensemble's graph as a torch.export program and as ONNX."""

import logging
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path

import torch

from workers.errors import ConfigError
from workers.export.graph import Combining, EnsembleGraph
from workers.export.standalone import ONNX, PROGRAM
from workers.inference import TrainedMember
from workers.settings import Crops

_OPSET = 20
# One protobuf message holds 2 GiB at most.
_MOST_INSIDE = 1 << 30


def predict_program() -> Path:
    """Returns the program that feeds image files to the graphs; it runs beside them without Septet."""
    return Path(__file__).with_name("standalone.py")


def export_graphs(
    members: Sequence[TrainedMember], crops: Crops, side: int, combining: Combining, forms: Collection[str], to: Path
) -> None:
    """Writes the graph of `members` to the folder `to`, as a program, as ONNX, or as both.

    Args:
        members: on the CPU, in float32 and with torch's operators, as combined.
        crops: the views that are averaged.
        side: of the squares that the graph takes, in pixels.
        combining: how members are combined.
        forms: what to write.
        to: an existing folder.

    Raises:
        ConfigError: torch cannot export a member's net.
    """
    example = (torch.zeros(2, side, side, 3, dtype=torch.uint8),)
    graph, axes = EnsembleGraph(members, crops, side, combining).eval(), ({0: torch.export.Dim("batch")},)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(graph, example, dynamic_shapes=axes)
        # Nets are a library's or a user's code, and their errors when traced are of any type.
        except Exception as error:
            said = str(error).strip().partition("\n")[0]
            names = ", ".join(dict.fromkeys(member.settings.model.name for member in members))
            raise ConfigError(f"model.name={names}: torch.export cannot trace the net: {said}") from error
        # What would be pickled beside it.
        program.example_inputs = None
        if "torch" in forms:
            torch.export.save(program, to / PROGRAM)
        if "onnx" in forms:
            num_bytes = sum(each.nbytes for each in graph.state_dict().values())
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            written = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=_OPSET,
                verbose=False,
                input_names=["pixels"],
                output_names=["probabilities", "members"],
            )
            assert written is not None, "a program is returned, since no file was named"
            written.save(str(to / ONNX), external_data=num_bytes > _MOST_INSIDE)
