"""Compares the submission with its manifest and run.json, makes it again, and computes the scores again."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from orchestrator.combine import Combination, MemberPredictions, equal, weights_of, without
from orchestrator.config import FITTED, Calibrator, CombineConfig
from orchestrator.opened import Opened, find_issues, opened_splits, score_splits, value_members
from orchestrator.plan import StageRef
from orchestrator.report import metric_told, scores_json
from orchestrator.run import SUBMISSION_FILES, RunData, SubmissionDigests
from orchestrator.submission import Manifest, asked_by, first_difference, uncertainty_difference
from orchestrator.verification.findings import Examined
from workers.errors import CheckFailed, ConfigError
from workers.storage import Finished, parse_json, sha256_of, storage_errors

# Fitted numbers are stored in millionths; another CPU may round the last one otherwise.
_ROUNDING = 1.5e-6
# Reports of earlier releases lack them.
_ADDED = ("intervals", "worth", "calibration", "gain", "review", "equal_width", "equal_mass")
# What is counted from the ledger, which may be gone.
_COUNTED = "worth.core_seconds."
# Valid predictions by split and member.
Predictions = Mapping[str, Mapping[str, MemberPredictions]]


def check_submission(run: Examined, manifest: Manifest, data: RunData | None, predictions: Predictions) -> None:
    """Checks the submission's files, then makes it again and compares byte for byte."""
    folder = run.paths.submission
    path = folder / manifest.file
    others = [name for name in SUBMISSION_FILES if name != manifest.file and (folder / name).exists()]
    for name in others:
        run.differs(f"{folder / name}: is beside {manifest.file}, but the manifest does not name it")
    if not path.is_file():
        run.differs(f"{path}: missing, though the manifest names it")
        return
    run.count("submission")
    with storage_errors(path):
        digests = SubmissionDigests(manifest.file, sha256_of(path), sha256_of(run.paths.submission_manifest))
    if digests not in (run.record.committed.submission, run.record.committed.announced):
        run.differs(f"submission: {digests.file} or its manifest was altered since it was committed")
    if digests.sha256 != manifest.sha256:
        run.differs(f"{path}: sha256 {digests.sha256[:12]}, its manifest says {manifest.sha256[:12]}")
    combined = {name for name in run.plan.members if name not in run.gone and name not in run.plan.students}
    if {one.name for one in manifest.members} != combined:
        run.differs(
            f"{run.paths.submission_manifest}: its members are not those of the run: run `septet launch` or "
            "`septet submit` again"
        )
        return
    if data is None:
        return
    if (manifest.split, manifest.data_digest) != (data.submitted, data.digest):
        run.differs(f"{run.paths.submission_manifest}: is of other images than data/")
        return
    _rebuild(run, manifest, data, predictions)


def _rebuild(run: Examined, manifest: Manifest, data: RunData, predictions: Predictions) -> None:
    sound = predictions[manifest.split]
    for member in manifest.members:
        one = sound.get(member.name)
        if one is not None and one.about.sha256 != member.predictions_sha256:
            run.differs(f"member {member.name}: the submission was not made from {one.path}")
        if one is not None and one.about.checkpoint_sha256 != member.checkpoint_sha256:
            run.differs(f"member {member.name}: the submission was made from another checkpoint")
    if any(member.name not in sound for member in manifest.members):
        run.notes.append("the submission was not made again: some predictions are missing or invalid")
        return
    opened = _opened(run, manifest, data, predictions)
    rows = opened.combined(manifest.split) if manifest.split in opened.members else None
    if rows is None:
        run.notes.append("the submission was not made again: it needs the members of all folds")
        return
    _check_weights(run, manifest, opened)
    _check_calibration(run, manifest, opened)
    path = run.paths.submission / manifest.file
    try:
        question, note = asked_by(manifest, data, path)
        difference = first_difference(path, question, rows)
        beside = run.paths.submission / manifest.uncertainty if manifest.uncertainty else None
        other = beside and uncertainty_difference(beside, question, rows)
    except (ConfigError, CheckFailed) as error:
        run.differs(f"submission: {error}")
        return
    if note:
        run.notes.append(note)
    if other:
        run.differs(f"{beside}: differs from what the predictions give: {other}")
    if difference:
        run.differs(f"{path}: differs from the submission made again: {difference}")
    else:
        run.rebuilt = True


def _opened(
    run: Examined,
    manifest: Manifest,
    data: RunData,
    predictions: Predictions,
    finished: Mapping[StageRef, Finished] = MappingProxyType({}),
) -> Opened:
    """Returns the splits of which the predictions of all members are valid, in the manifest's order."""
    plan, names = without(run.plan, manifest.missing), [member.name for member in manifest.members]
    of_split = {
        split: [name for name in names if name not in plan.lacking(split)] for split in opened_splits(plan, data)
    }
    members = {
        split: tuple(predictions[split][name] for name in own)
        for split, own in of_split.items()
        if all(name in predictions[split] for name in own)
    }
    done = {ref.member: one for ref, one in finished.items()}
    students = {split: {name: own[name] for name in plan.students if name in own} for split, own in predictions.items()}
    return Opened(data, members, done, manifest.combination, plan, students)


def _check_weights(run: Examined, manifest: Manifest, opened: Opened) -> None:
    data = opened.data
    said, names = manifest.combination, [member.name for member in manifest.members]
    if said.fit is None and said.method in FITTED:
        run.notes.append("the weights are an earlier release's and were not fitted again")
        return
    if said.fit is None:
        wanted = equal(said.method, len(names))
        if said.given:
            given = CombineConfig(said.method, weights=said.given)
            wanted = replace(wanted, weights=weights_of(given, names, opened.plan.voters))
    elif (split := data.splits.get(said.fit.split)) is None or split.labels is None:
        run.differs(f"submission: no labels of {said.fit.split}, on which the manifest's weights were fitted")
        return
    elif split.name not in opened.members:
        return
    else:
        wanted = opened.fitted(said.fit.asked, said.fit.metric, split.name)
    if not _alike(said, wanted):
        shown = f"{said.method} {_rounded(said.weights)}", f"{wanted.method} {_rounded(wanted.weights)}"
        run.differs(f"submission: the manifest's weights, {shown[0]}, are not the method's, {shown[1]}")


def _check_calibration(run: Examined, manifest: Manifest, opened: Opened) -> None:
    """Fits calibration and prediction sets again, to the combination that the manifest has."""
    said = manifest.combination
    if said.sets is None:
        return
    if (split := opened.data.splits.get(said.sets.split)) is None or split.labels is None:
        run.differs(f"submission: no labels of {said.sets.split}, to which its calibration and sets were fitted")
        return
    if len(opened.members.get(split.name, ())) < len(manifest.members):
        return

    asked = said.calibration.asked if said.calibration else Calibrator.none
    config = CombineConfig(calibration=asked, coverage=said.sets.coverage, sets=said.sets.kind)
    wanted = opened.calibrated(config, split.name)
    for name in ("calibration", "sets"):
        one, other = (asdict(found) if (found := getattr(each, name)) else {} for each in (said, wanted))
        if different := list(_different(one, other, name, _ROUNDING)):
            run.differs(f"submission: {', '.join(different[:3])} of the manifest are not what the predictions give")


def _alike(one: Combination, other: Combination) -> bool:
    """Returns whether two combinations are equal within the rounding of what is fitted."""
    if one.method is not other.method or (one.stacking is None) != (other.stacking is None):
        return False
    pairs: list[tuple[Any, Any]] = [(one.weights, other.weights)]
    if one.stacking is not None and other.stacking is not None:
        pairs += [(one.stacking.factors, other.stacking.factors), (one.stacking.offsets, other.stacking.offsets)]
    tolerance = _ROUNDING if one.fit else 0.0
    return all(np.shape(said) == np.shape(wanted) and np.allclose(said, wanted, 0, tolerance) for said, wanted in pairs)


def _rounded(weights: Sequence[float]) -> str:
    return "(" + ", ".join(f"{weight:.3g}" for weight in weights) + ")"


def check_report(
    run: Examined, manifest: Manifest, data: RunData, finished: Mapping[StageRef, Finished], predictions: Predictions
) -> None:
    """Compares scores.json with scores computed again; `septet report` makes pictures and pages again."""
    path = run.paths.report_scores
    opened = _opened(run, manifest, data, predictions, finished)
    plan = opened.plan
    needed = {*data.scored, data.submitted} & {*opened_splits(plan, data)}
    if not data.scored or not needed <= set(opened.members):
        return
    scores = score_splits(plan, opened)
    if not path.is_file():
        run.notes += ["no report/scores.json: `septet report` writes it"] if scores else []
        return
    run.count("scores")
    try:
        told = parse_json(path.read_bytes())
    except (ValueError, OSError) as error:
        run.differs(f"{path}: damaged ({error}); `septet report` writes it again")
        return
    if isinstance(told, dict):
        # Of a report's parts, which are small copies of what is drawn.
        told.pop("parts", None)
    metric = metric_told(told)
    worth = value_members(run.paths, plan, opened, scores[0].split, metric) if scores and metric else None
    wanted = scores_json(scores, manifest.missing, worth, find_issues(opened))
    different = list(_different(told, wanted, ""))
    if different:
        run.differs(
            f"{path}: {', '.join(different[:3])}{' and more' if len(different) > 3 else ''} differ from the scores "
            "computed again; `septet report` writes it again"
        )


def _different(told: Any, wanted: Any, key: str, tolerance: float = 1e-12) -> Iterator[str]:
    """Yields the keys at which two JSON values differ; numbers may differ by another CPU's rounding of logarithms."""
    if wanted is None and key.startswith(_COUNTED):
        return
    if isinstance(told, dict) and isinstance(wanted, dict):
        for name in dict.fromkeys((*told, *wanted)):
            if name in _ADDED and name not in told:
                continue
            yield from _different(told.get(name), wanted.get(name), f"{key}.{name}" if key else str(name), tolerance)
    elif isinstance(told, list | tuple) and isinstance(wanted, list | tuple) and len(told) == len(wanted):
        for index, (one, other) in enumerate(zip(told, wanted, strict=True)):
            yield from _different(one, other, f"{key}[{index}]", tolerance)
    elif isinstance(told, float) and isinstance(wanted, float):
        if not math.isclose(told, wanted, rel_tol=1e-9, abs_tol=tolerance):
            yield key
    elif told != wanted:
        yield key
