"""Explains where one line of the submission comes from (`septet explain`). Takes no lock, changes nothing."""

import difflib
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.combine import (
    OF_LOGS,
    SMALLEST_PROBABILITY,
    ClassProbability,
    Combination,
    Combined,
    MemberPredictions,
    open_predictions,
    sum_members,
    top_classes,
)
from orchestrator.config import CombineMethod
from orchestrator.fitting import uncertainties
from orchestrator.run import Committed, Entry, RunData, RunPaths, read_ledger, read_record, read_run_data, require_data
from orchestrator.submission import (
    Layout,
    Manifest,
    Question,
    asked_by,
    file_lines,
    line_number,
    make_layout,
    read_manifest,
)
from orchestrator.text import counted
from workers.errors import CheckFailed, DataError
from workers.settings import OUT_OF_FOLD

_SHOWN_IDS = 3
_KINDS = {
    CombineMethod.geometric: "weight × log probability",
    CombineMethod.rank: "weight × points for the place",
    CombineMethod.stacked: "coefficients × log probabilities",
}


@dataclass(frozen=True)
class Contribution:
    """The part of one member in one class of the ensemble.

    `value` is weight × probability (× points for its place, of `rank`), and all members' values sum to the combined
    probability. For a geometric mean it is weight × log probability, and for a stacked one the coefficients ×
    log-probabilities; the sum, with the class's constant, is then the logarithm of the combined probability plus
    `Explanation.log_sum`.
    """

    name: str
    probability: float
    value: float


@dataclass(frozen=True)
class MemberPart:
    """One member: its best classes, what it adds to the best classes of the ensemble, and the node that trained it."""

    name: str
    weight: float
    top: tuple[ClassProbability, ...]
    contributions: tuple[Contribution, ...]
    run_id: str | None
    checkpoint: str
    checkpoint_sha256: str
    predictions_sha256: str
    from_outside: bool = False
    node: str = ""


@dataclass(frozen=True)
class Explanation:
    """One line of the submission. `row` is the image's path below its split; `line` is as in the file.

    `prediction` is the first guess, as the file names classes. `unreadable`: the image could not be read, so every
    member counts as uniform. `log_sum` is set only for a geometric mean and a stacked one, `constants` for the latter.
    `entropy` and `mutual_information` are in nats, `set` are the classes of the prediction set, None without one.
    `uncalibrated` are the probabilities of `combined` before `calibration`, empty without one.
    """

    id: str
    row: str
    split: str
    line_number: int
    line: str
    prediction: str
    method: CombineMethod
    combined: tuple[ClassProbability, ...]
    unreadable: bool
    members: tuple[MemberPart, ...]
    log_sum: float | None = None
    constants: tuple[float, ...] = ()
    entropy: float = 0.0
    mutual_information: float = 0.0
    set: tuple[str, ...] | None = None
    uncalibrated: tuple[float, ...] = ()
    calibration: str = ""


def explain(paths: RunPaths, image_id: str, top: int = 5) -> Explanation:
    """Explains the line of `image_id`: an id as the submission spells it, or the image's path below its split.

    Raises:
        DataError: there is no such run directory or image (the nearest ids are named).
        MemberFailed: there is no submission yet, or a member's predictions are missing.
        CheckFailed: predictions are damaged or altered, or the file disagrees with them.
    """
    record = read_record(paths)
    manifest = read_manifest(paths)
    require_data(record.committed, paths.data)
    data = read_run_data(paths.data)
    submission = paths.submission / manifest.file
    if not submission.is_file():
        raise CheckFailed(f"{submission}: missing, though the manifest names it; `septet submit` writes it again")
    if manifest.split == OUT_OF_FOLD:
        raise DataError(
            f"{submission}: has out-of-fold predictions, each of some members; members/*/predictions/oof.npy has them"
        )
    question, _ = asked_by(manifest, data, submission)
    layout = make_layout(question)
    index = _index_of(question, layout, image_id, submission)
    row = int(layout.order[index])
    members = _members(paths, manifest, data, record.committed)
    combination = manifest.combination
    combined = Combined(members, combination)[row : row + 1]
    line, number = _line(question, layout, combined, index), line_number(question, layout, index)
    _require_line(submission, line, number)
    best = top_classes(combined, top)[0]
    ids = record.mlflow.get("members", {}) if isinstance(record.mlflow, Mapping) else {}
    stored = np.concatenate([member[row : row + 1] for member in members]).astype(np.float64)
    given = _contributions(combination, stored)
    offsets = combination.stacking.offsets if combination.stacking else np.zeros(len(data.classes))
    (doubt,) = uncertainties(combination, combined, [member[row : row + 1] for member in members])
    before, correction = Combined(members, combination.uncalibrated)[row : row + 1], combination.calibration
    stages = defaultdict(Entry, read_ledger(paths.ledger).stages)
    parts = tuple(
        MemberPart(
            name=said.name,
            weight=said.weight,
            top=_best(own, data.classes, top),
            contributions=tuple(
                Contribution(data.classes[place], float(own[place]), float(values[place])) for place in best
            ),
            run_id=ids.get(said.name) or None,
            checkpoint=said.checkpoint,
            checkpoint_sha256=said.checkpoint_sha256,
            predictions_sha256=said.predictions_sha256,
            from_outside=not said.stage,
            node=", then ".join(stages[f"{said.name}/{said.stage}"].machines) if said.stage else "",
        )
        for said, own, values in zip(manifest.members, stored, given, strict=True)
    )
    return Explanation(
        id=layout.ids[index],
        row=question.rows[row],
        split=manifest.split,
        line_number=number,
        line=line.rstrip("\n"),
        prediction=layout.names[int(best[0])],
        method=manifest.method,
        combined=tuple(ClassProbability(data.classes[place], float(combined[0, place])) for place in best),
        unreadable=row in data.splits[manifest.split].unreadable,
        members=tuple(sorted(parts, key=lambda one: one.name)),
        log_sum=_log_sum(given.sum(axis=0) + offsets) if manifest.method in OF_LOGS else None,
        constants=tuple(offsets[best].tolist()) if combination.stacking else (),
        entropy=doubt.entropy,
        mutual_information=doubt.mutual_information,
        set=None if doubt.classes is None else tuple(data.classes[place] for place in doubt.classes),
        uncalibrated=tuple(before[0, best].tolist()) if correction and correction.is_taken else (),
        calibration=f"{correction.asked}{correction.temperature}" if correction and correction.is_taken else "",
    )


def _index_of(question: Question, layout: Layout, image_id: str, submission: Path) -> int:
    """Returns the index of the image's answer; an id of the file takes precedence over an equal path."""
    paths = [question.rows[row] for row in layout.order.tolist()]
    for names in (layout.ids, paths):
        if image_id in names:
            return names.index(image_id)
    known = list(dict.fromkeys((*layout.ids, *paths)))
    near = difflib.get_close_matches(image_id, known, n=_SHOWN_IDS, cutoff=0.3) or known[:_SHOWN_IDS]
    raise DataError(f"{image_id}: no such image in {submission}; the nearest are {', '.join(near)}")


def _members(paths: RunPaths, manifest: Manifest, data: RunData, committed: Committed) -> tuple[MemberPredictions, ...]:
    """Opens the submission's members in its order, and checks that the submission was made from them."""
    folders = {member.name: paths.predictions(member.name) for member in manifest.members}
    if manifest.split not in data.splits:
        raise CheckFailed(
            f"{paths.submission}: is of {manifest.split}, which data/ does not have; run `septet submit` again"
        )
    opened = open_predictions(folders, data.splits[manifest.split], len(data.classes), data.digest, committed=committed)
    for one, said in zip(opened, manifest.members, strict=True):
        if one.about.sha256 != said.predictions_sha256:
            raise CheckFailed(
                f"member {one.member}: {one.path} is not what the submission was made from; `septet submit` "
                "makes it again"
            )
    return opened


def _line(question: Question, layout: Layout, combined: np.ndarray, index: int) -> str:
    """Returns one line, as the whole file would have it."""
    row = int(layout.order[index])
    one = replace(question, sizes=question.sizes[row : row + 1])
    only = replace(layout, ids=(layout.ids[index],), order=np.array([0]))
    return list(file_lines(one, only, combined))[-1]


def _require_line(submission: Path, line: str, number: int) -> None:
    with submission.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        found = "".join(islice(file, number - 1, number - 1 + line.count("\n")))
    if found != line:
        raise CheckFailed(
            f"{submission} line {number}: {found.rstrip()!r}, where the predictions give {line.rstrip()!r}; "
            "`septet verify` lists all differences"
        )


def _best(probabilities: np.ndarray, classes: Sequence[str], top: int) -> tuple[ClassProbability, ...]:
    places = top_classes(probabilities[None, :], top)[0]
    return tuple(ClassProbability(classes[place], float(probabilities[place])) for place in places)


def _contributions(combination: Combination, stored: np.ndarray) -> np.ndarray:
    """Returns what each member gives to each class, (members, classes) like `stored`."""
    values = np.zeros(stored.shape)
    for index, own in enumerate(stored):
        part = combination.only(index)
        if used := part.used([own[None]]):
            values[index] = sum_members(part, used)[0]
    return values


def _log_sum(total: np.ndarray) -> float:
    return float(total.max() + np.log(np.exp(total - total.max()).sum()))


def explanation_json(found: Explanation) -> dict[str, Any]:
    """Returns the document of `septet explain --json`; classes are named by `class`, as in `predict`."""

    def classes(values: Sequence[ClassProbability | Contribution]) -> list[dict[str, Any]]:
        return [{"class" if name == "name" else name: told for name, told in asdict(one).items()} for one in values]

    members = [
        {**asdict(member), "top": classes(member.top), "contributions": classes(member.contributions)}
        for member in found.members
    ]
    return {**asdict(found), "combined": classes(found.combined), "members": members}


def explanation_lines(found: Explanation) -> Iterator[str]:
    """Yields lines for a person: the line, a table of contributions that sum to it, and each member's best classes."""
    yield f"{found.id}: {found.prediction}"
    yield f"image       {found.split}/{found.row}{' (could not be read: uniform)' if found.unreadable else ''}"
    shown = found.line if len(found.line) <= 100 else found.line[:100] + "…"
    yield f"line {found.line_number:<6} {shown}"
    yield ""
    kind = _KINDS.get(found.method, "weight × probability")
    yield f"{found.method} of {counted(len(found.members), 'member')}; {kind}; they sum to the last line"
    width = max(len("log of their sum over classes"), *(len(member.name) for member in found.members))
    columns = [max(9, len(one.name)) for one in found.combined]
    yield f"{'':<{width}}  {'weight':>7}  " + _cells([one.name for one in found.combined], columns)
    for member in found.members:
        values = [f"{one.value:.6f}" for one in member.contributions]
        yield f"{member.name:<{width}}  {member.weight:>7.4f}  {_cells(values, columns)}"
    if found.constants:
        cells = _cells([f"{one:.6f}" for one in found.constants], columns)
        yield f"{'constant of the class':<{width}}  {'':>7}  {cells}"
    if found.log_sum is not None:
        cells = _cells([f"{-found.log_sum:.6f}"] * len(columns), columns)
        yield f"{'log of their sum over classes':<{width}}  {'':>7}  {cells}"
        averaged = found.uncalibrated or [one.probability for one in found.combined]
        logs = [f"{math.log(max(one, SMALLEST_PROBABILITY)):.6f}" for one in averaged]
        yield f"{'log of the ensemble':<{width}}  {'':>7}  {_cells(logs, columns)}"
    if found.uncalibrated:
        cells = _cells([f"{one:.6f}" for one in found.uncalibrated], columns)
        yield f"{'before calibration':<{width}}  {'':>7}  {cells}"
    probabilities = [f"{one.probability:.6f}" for one in found.combined]
    yield f"{'the ensemble':<{width}}  {'':>7}  {_cells(probabilities, columns)}"
    yield ""
    if found.calibration:
        yield f"calibrated by {found.calibration}"
    yield f"entropy {found.entropy:.4f} nats, mutual information between members {found.mutual_information:.4f} nats"
    if found.set is not None:
        yield f"prediction set: {', '.join(found.set)}"
    yield ""
    for member in found.members:
        best = ", ".join(f"{one.name} {one.probability:.4f}" for one in member.top)
        yield f"{member.name}: {best}"
        made_by = "from outside" if member.from_outside else f"MLflow run {member.run_id or 'unknown'}"
        trained = f"trained on {member.node}, " if member.node else ""
        yield f"  {trained}{made_by}, {member.checkpoint} sha256 {member.checkpoint_sha256}"


def _cells(values: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(value.rjust(width) for value, width in zip(values, widths, strict=True))
