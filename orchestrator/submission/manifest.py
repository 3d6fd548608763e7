"""A written submission from the other side: what its manifest says, and the same file made again from predictions.

Nothing is written: lines are made a block at a time and held against the file's bytes.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.combine import Combination, Missing, Rows, read_ahead
from orchestrator.config import CombineMethod, SubmissionFormat
from orchestrator.run import RunData, RunPaths
from orchestrator.submission.formats import (
    Question,
    Template,
    file_lines,
    is_csv,
    make_layout,
    read_class_ids,
    read_template,
)
from orchestrator.submission.write import MANIFEST, question_of
from workers.errors import CheckFailed, MemberFailed, StorageError
from workers.storage import parse_json, sha256_of

_SHOWN_BYTES = 60


@dataclass(frozen=True)
class ManifestMember:
    """What the manifest says of one member."""

    name: str
    weight: float
    stage: str
    predictions_sha256: str
    checkpoint: str
    checkpoint_sha256: str


@dataclass(frozen=True)
class NamedFile:
    """A file outside the run that the submission follows, and the sha256 that it had."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What manifest.json says of a submission: all that it takes to make it again."""

    file: str
    format: SubmissionFormat
    split: str
    sha256: str
    rows_sha256: str
    data_digest: str
    method: CombineMethod
    searched_on: str | None
    members: tuple[ManifestMember, ...]
    missing: tuple[Missing, ...]
    template: NamedFile | None
    class_ids_file: NamedFile | None
    class_names: Mapping[str, str] | None

    @property
    def combination(self) -> Combination:
        """As `members` are in order."""
        return Combination(self.method, tuple(member.weight for member in self.members), self.searched_on)


@dataclass(frozen=True)
class Asked:
    """The question that a submission answers; `note` says what of it could not be taken from where it came from."""

    question: Question
    note: str | None = None


def read_manifest(paths: RunPaths) -> Manifest:
    """Reads the manifest of the run's submission.

    Raises:
        MemberFailed: there is no submission yet.
        StorageError: the manifest is damaged.
    """
    path = paths.submission / MANIFEST
    try:
        return _manifest(parse_json(path.read_bytes()))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MemberFailed(f"{paths.root}: no submission yet; run `septet launch` again") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{path}: damaged ({error}); run `septet submit` to write it anew") from error


def _manifest(said: Mapping[str, Any]) -> Manifest:
    kept = ("name", "weight", "stage", "predictions_sha256", "checkpoint", "checkpoint_sha256")
    return Manifest(
        file=str(said["file"]),
        format=SubmissionFormat(said["format"]),
        split=str(said["split"]),
        sha256=str(said["sha256"]),
        rows_sha256=str(said["rows_sha256"]),
        data_digest=str(said["data_digest"]),
        method=CombineMethod(said["method"]),
        searched_on=said["weights_searched_on"],
        members=tuple(
            ManifestMember(**{**{name: one[name] for name in kept}, "weight": float(one["weight"])})
            for one in said["members"]
        ),
        missing=tuple(Missing(**one) for one in said["missing"]),
        template=_named(said["template"]),
        class_ids_file=_named(said["class_ids_file"]),
        class_names=said["class_names"],
    )


def _named(said: Mapping[str, str] | None) -> NamedFile | None:
    return None if said is None else NamedFile(Path(said["path"]), said["sha256"])


def asked_by(manifest: Manifest, data: RunData, submission: Path) -> Asked:
    """What the submission had to answer, from the manifest, the run's data and the files that were named then.

    A template that is gone or changed is taken from the submission's own ids and columns, and the note says so.

    Raises:
        CheckFailed: what classes are called in the file is known no more.
        ConfigError: ids, classes and format do not go together.
    """
    class_ids, template, note = manifest.class_names, None, None
    if manifest.class_ids_file is not None and class_ids is None:
        text = _unchanged(manifest.class_ids_file)
        if text is None:
            raise CheckFailed(
                f"{manifest.class_ids_file.path}: gone or changed since the submission was written, so it cannot be "
                "made again: put it back"
            )
        class_ids = read_class_ids(text, str(manifest.class_ids_file.path))
    if manifest.template is not None:
        text = _unchanged(manifest.template)
        if text is None:
            template = _own_template(submission)
            note = (
                f"{manifest.template.path}: gone or changed since, so ids, order and columns were taken from the "
                "submission itself"
            )
        else:
            template = read_template(text, str(manifest.template.path))
    return Asked(question_of(manifest.format, data, template, class_ids), note)


def _unchanged(file: NamedFile) -> str | None:
    try:
        if sha256_of(file.path) == file.sha256:
            return file.path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        pass
    return None


def _own_template(submission: Path) -> Template:
    with submission.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        lines = csv.reader(file)
        return Template(tuple(next(lines, [])), tuple(line[0] for line in lines if line))


def first_difference(submission: Path, question: Question, rows: Rows) -> str | None:
    """Where the file first differs from what the combined `rows` give; None where it is the same byte for byte."""
    number = 0
    with submission.open("rb") as file, read_ahead(rows) as ahead:
        for number, line in enumerate(file_lines(question, make_layout(question), ahead), start=1):
            wanted = line.encode(errors="surrogateescape")
            if (found := file.read(len(wanted))) != wanted:
                return f"line {number} is {_shown(found)}, where the predictions give {_shown(wanted)}"
        if surplus := file.read(_SHOWN_BYTES):
            return f"it goes on after its last line, {number}, with {_shown(surplus)}"
    return None


def _shown(content: bytes) -> str:
    text = content[:_SHOWN_BYTES].decode(errors="replace").rstrip("\n")
    return repr(text + ("…" if len(content) > _SHOWN_BYTES else ""))


def line_number(question: Question, index: int) -> int:
    """Which line of the file, from 1, begins the answer of `index` (in the layout's order): ids may hold line feeds."""
    layout = make_layout(question)
    before = [*layout.header, *(layout.ids[:index] if is_csv(question.format) else ())]
    return 1 + (1 if layout.header else 0) + index + sum(text.count("\n") for text in before)
