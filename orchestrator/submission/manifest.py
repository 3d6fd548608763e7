"""Reads manifest.json: what a submission was made from, and everything needed to make it again."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.combine import Calibration, Combination, Fit, Missing, PredictionSets, Stacking
from orchestrator.config import Calibrator, CombineMethod, SetScore, SubmissionFormat
from orchestrator.run import SUBMISSION_FILES, RunPaths
from workers.errors import MemberFailed, StorageError
from workers.storage import parse_json


@dataclass(frozen=True)
class ManifestMember:
    """One member; `stage` and `stage_hash` are of its last stage.

    Both are empty for one from outside, whose `checkpoint` is the file that another tool made.
    """

    name: str
    weight: float
    stage: str
    stage_hash: str
    predictions_sha256: str
    checkpoint: str
    checkpoint_sha256: str


@dataclass(frozen=True)
class NamedFile:
    """A file outside the run that the submission uses, and its sha256 then."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json, in its order.

    `sha256` is of the submission. `unreadable` are ids of images that could not be read. `class_ids` says which ids
    classes have, and `class_names` are those from a file outside the run. `missing` are members it does without.
    `weights_given` are those of `combine.weights`. Manifests of earlier releases end before it. `uncertainty` names the
    file beside the submission.
    """

    file: str
    format: SubmissionFormat
    split: str
    num_rows: int
    num_classes: int
    rows_sha256: str
    data_digest: str
    method: CombineMethod
    weights: Mapping[str, float]
    weights_searched_on: str | None
    weights_note: str | None
    members: tuple[ManifestMember, ...]
    unreadable: tuple[str, ...]
    class_ids: str
    class_names: Mapping[str, str] | None
    template: NamedFile | None
    class_ids_file: NamedFile | None
    septet_version: str
    missing: tuple[Missing, ...]
    sha256: str
    weights_given: Mapping[str, float] = field(default_factory=dict)
    fit: Fit | None = None
    stacking: Stacking | None = None
    calibration: Calibration | None = None
    sets: PredictionSets | None = None
    uncertainty: str | None = None

    @property
    def combination(self) -> Combination:
        """Returns the combination, in the order of `members`."""
        weights = tuple(member.weight for member in self.members)
        fitted = (self.stacking, self.fit, self.weights_given, self.weights_note, self.calibration, self.sets)
        return Combination(self.method, weights, *fitted)

    def to_text(self) -> str:
        """Returns the file's content."""
        return json.dumps(asdict(self), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def read_manifest(paths: RunPaths) -> Manifest:
    """Reads the manifest of the run's submission.

    Raises:
        MemberFailed: there is no submission yet.
        StorageError: the manifest is damaged.
    """
    manifest = find_manifest(paths)
    if manifest is None:
        raise MemberFailed(f"{paths.root}: no submission yet; if nothing runs there: septet resume {paths.root}")
    return manifest


def find_manifest(paths: RunPaths) -> Manifest | None:
    """Reads the manifest like `read_manifest`, but returns None if there is no submission yet."""
    path = paths.submission_manifest
    try:
        return _from_json(parse_json(path.read_bytes()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{path}: damaged ({error}); run `septet submit` to write it again") from error


def _from_json(said: Mapping[str, Any]) -> Manifest:
    if said["file"] not in SUBMISSION_FILES:
        raise ValueError(f"no submission is called {said['file']!r}")
    return Manifest(
        **{
            **said,
            "format": SubmissionFormat(said["format"]),
            "split": str(said["split"]),
            "data_digest": str(said["data_digest"]),
            "sha256": str(said["sha256"]),
            "method": CombineMethod(said["method"]),
            "members": tuple(ManifestMember(**{**one, "weight": float(one["weight"])}) for one in said["members"]),
            "unreadable": tuple(said["unreadable"]),
            "missing": tuple(Missing(**one) for one in said["missing"]),
            "template": _named(said["template"]),
            "class_ids_file": _named(said["class_ids_file"]),
            "fit": Fit.from_json(fit) if (fit := said.get("fit")) else None,
            "stacking": Stacking(**stacking) if (stacking := said.get("stacking")) else None,
            "calibration": (
                Calibration(**{**one, "asked": Calibrator(one["asked"])}) if (one := said.get("calibration")) else None
            ),
            "sets": PredictionSets(**{**one, "kind": SetScore(one["kind"])}) if (one := said.get("sets")) else None,
        }
    )


def _named(said: Mapping[str, str] | None) -> NamedFile | None:
    return None if said is None else NamedFile(str(said["path"]), said["sha256"])
