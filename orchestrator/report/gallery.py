"""Shows what members and images look like: errors side by side, reliability, first layers, contact sheets."""

import base64
import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple

from safetensors import SafetensorError, safe_open

from orchestrator.combine import Interval
from orchestrator.plan import Plan
from orchestrator.report.evidence import Evidence
from orchestrator.report.figures import Bar, Drawing, conv1_kernels, member_errors, reliability_diagram
from orchestrator.report.reliability import Reliability
from orchestrator.report.sections import Card, Section
from orchestrator.report.table import SplitScores
from workers.storage import layout

COLOURS = 3
_log = logging.getLogger(__name__)


def reliability(evidence: Evidence) -> Section | None:
    """Shows the errors of members beside those of averages, and how often the ensemble is right by how sure it is."""
    if (scores := evidence.main) is None:
        return None
    before, after = scores.calibrated.before, scores.calibrated.after
    drawn = [_beside_averages(scores, evidence.plan)]
    if after:
        drawn.append(reliability_diagram("reliability_before", "the uncalibrated ensemble", before, scores.split))
    drawn.append(reliability_diagram("reliability", "the ensemble", after or before, scores.split))
    states = {"before": before} | ({"after": after} if after else {})
    return Section(
        "reliability", "Members, averages and reliability", tuple(drawn), csv={"reliability": tuple(_bins(states))}
    )


def _beside_averages(scores: SplitScores, plan: Plan) -> Drawing:
    # Out of fold, a recipe stands for its members.
    members = {voter: member for member, voter in plan.voters.items()} | {member: member for member in plan.members}

    def bar(name: str, error: Interval, *, averaged: bool) -> Bar:
        return Bar(name, error, not averaged and plan.is_pretrained(members[name]), averaged)

    bars = [bar(member, own, averaged=False) for member, own in scores.intervals.items()]
    bars += [bar(one.row.name, one.compared.error, averaged=True) for one in scores.rows if one.row.averaged]
    if scores.combined_as:
        bars.append(bar(f"ensemble, {scores.combined_as}", scores.ensemble_compared.error, averaged=True))
    return member_errors(bars)


def _bins(states: Mapping[str, Reliability]) -> Iterator[tuple[object, ...]]:
    """Yields a header, the bins of the reliability diagram, and those of equal width."""
    yield "probabilities", "bins", "images", "lowest", "highest", "confidence", "right", "low", "high"
    for name, found in states.items():
        for kind in ("equal_mass", "equal_width"):
            for one in getattr(found, kind):
                yield name, kind, one.num_images, one.lowest, one.highest, one.confidence, *astuple(one.right)


def kernels(evidence: Evidence) -> Section | None:
    """Shows each member's first layer; None if none has a picture."""
    drawn = {member: png for member in evidence.plan.trained if (png := _kernels(evidence, member)) is not None}
    if not drawn:
        return None
    # Three high pictures, or more low ones; byte 20 of a PNG begins its height.
    most = 3 * max(1, 1000 // max(int.from_bytes(png[20:24]) for png in drawn.values()))
    cards = [Card(data_uri(png), f"first-layer kernels of {member}", (member,)) for member, png in drawn.items()]
    return Section(
        "kernels",
        "First-layer kernels",
        cards=tuple(cards[:most]),
        notes=("All kernels of a member share one scale. Those of all members are in report/figures.",),
        card_width=18,
        pictures={f"conv1_{member}": png for member, png in drawn.items()},
    )


def _kernels(evidence: Evidence, member: str) -> bytes | None:
    """Returns the picture of a member's first layer.

    Returns None if its checkpoint is gone, since a report needs no model, or if no convolution takes three channels (a
    net for grey images).
    """
    stage = evidence.plan.last_stage(member).ref
    folder = evidence.paths.checkpoints(stage) / evidence.predictions[member].about.checkpoint
    try:
        with safe_open(folder / layout.MODEL, framework="numpy") as file:
            name = first_convolution({name: file.get_slice(name).get_shape() for name in file.keys()})  # noqa: SIM118
            if name is None:
                return None
            weights = file.get_tensor(name).astype("float32")
    except (OSError, SafetensorError) as error:
        _log.warning("no picture of %s's first layer: %s", member, error)
        return None
    return conv1_kernels(weights)


def first_convolution(shapes: Mapping[str, Sequence[int]]) -> str | None:
    """Returns the name of the weight with three input channels, such as `conv1.weight`, of all `shapes` by name.

    Of several, the first by name, with numbers compared as numbers.
    """

    def in_order(name: str) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]

    seen = [name for name, shape in shapes.items() if len(shape) == 4 and shape[1] == COLOURS]
    return min(seen, key=in_order, default=None)


def sheets(evidence: Evidence) -> Section | None:
    """Shows the contact sheets that the run has."""
    paths, plan = evidence.paths, evidence.plan
    kept = {paths.prepared_sheet: "Images of the target as they are prepared, by split."}
    for member in plan.trained[:1]:
        kept[paths.augmented_sheet(plan.last_stage(member).ref)] = (
            f"Some training images as {member}'s net sees them: each epoch draws crop, reflection and colours again."
        )
    found = {path.stem: (path.read_bytes(), caption) for path, caption in kept.items() if path.is_file()}
    if not found:
        return None
    return Section(
        "images",
        "The images",
        cards=tuple(Card(_smaller(png), caption, (caption,)) for png, caption in found.values()),
        card_width=40,
        pictures={name: png for name, (png, _) in found.items()},
    )


def _smaller(png: bytes) -> str:
    """Returns a picture as an address that holds it as WebP, which has a tenth of the bytes for photographs."""
    # Imported here, since a report without sheets needs no Pillow.
    from PIL import Image

    buffer = io.BytesIO()
    # A damaged one is shown as it is: a report does not fail for it.
    with suppress(OSError, SyntaxError):
        Image.open(io.BytesIO(png), formats=("PNG",)).save(buffer, "webp", quality=80)
        return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return data_uri(png)


def data_uri(png: bytes) -> str:
    """Returns a PNG as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
