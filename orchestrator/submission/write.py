"""Writes RUN_DIR/submission: one submission file, read again and checked, its uncertainty, and its manifest.

All are written to a temporary folder, which then replaces the last one in one rename: nobody sees the file of one
submission with the manifest of another.
"""

import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from orchestrator.combine import Combination, Combined, MemberPredictions, Missing
from orchestrator.config import SubmissionConfig, SubmissionFormat
from orchestrator.plan import Plan
from orchestrator.run import SUBMISSION_MANIFEST, UNCERTAINTY, Book, RunData, SubmissionDigests
from orchestrator.submission.check import check_submission
from orchestrator.submission.formats import (
    Question,
    Template,
    file_lines,
    file_name,
    make_layout,
    read_class_ids,
    read_template,
    row_id,
    text_of,
)
from orchestrator.submission.manifest import Manifest, ManifestMember, NamedFile
from orchestrator.submission.uncertainty import write_uncertainty
from workers.errors import ConfigError
from workers.storage import remove_leftovers, replacing_folder, sha256_of, write_text


def read_named(config: SubmissionConfig) -> tuple[Template | None, Mapping[str, str] | None]:
    """Reads the template and the class ids that `config` names; None for one that it does not.

    Raises:
        ConfigError: a file is missing or not what it should be.
    """
    named, ids = config.template, config.class_ids
    template = None if named is None else read_template(_text(Path(named), "submission.template"), named)
    return template, None if ids is None else read_class_ids(_text(Path(ids), "submission.class_ids"), ids)


def ask(config: SubmissionConfig, data: RunData) -> Question:
    """Returns what the submission must answer: the rows of its split in the format that `config` names.

    Raises:
        ConfigError: template or class ids are missing, malformed, or do not fit the data.
    """
    return question_of(config.format, data, *read_named(config))


def question_of(
    submission_format: SubmissionFormat, data: RunData, template: Template | None, class_ids: Mapping[str, str] | None
) -> Question:
    """Returns the question like `ask`, for a template and class ids that have been read."""
    split = data.splits[data.submitted]
    if class_ids is None and data.class_ids and submission_format is SubmissionFormat.ilsvrc:
        # Other formats name a class by its WNID, which is its name.
        class_ids = dict(zip(data.classes, data.class_ids, strict=True))
    question = Question(submission_format, split.rows, data.classes, split.sizes, template, class_ids)
    make_layout(question)
    return question


def write_submission(
    folder: Path,
    config: SubmissionConfig,
    data: RunData,
    combined: Combined,
    members: tuple[MemberPredictions, ...],
    plan: Plan,
    missing: Sequence[Missing],
    book: Book,
    combination: Combination | None = None,
) -> SubmissionDigests:
    """Writes, reads again and commits the submission of `combined` (the rows of `data.submitted`) and its manifest.

    `members` are those of `combined`, or of `combination` where `combined` is of voters, in the same order; `plan` has
    their stages; `missing` are those it does without. `book` records the digests before the file is put in place and
    after. The caller must hold the run directory's lock.

    Raises:
        ConfigError: template or class ids do not fit; nothing has been changed.
        CheckFailed: the file disagrees with the probabilities; nothing has been changed.
    """
    question = ask(config, data)
    remove_leftovers(folder.parent, of=folder.name)
    with replacing_folder(folder) as staged:
        candidate = staged / file_name(question.format)
        with candidate.open("wb") as file:
            for line in file_lines(question, make_layout(question), combined):
                file.write(line.encode(errors="surrogateescape"))
        check_submission(candidate, question, combined)
        write_uncertainty(staged / UNCERTAINTY, question, combined)
        sha256 = sha256_of(candidate)
        own = combination or combined.combination
        text = _manifest(config, data, question, own, members, plan, missing, sha256).to_text()
        write_text(staged / SUBMISSION_MANIFEST, text)
        digests = SubmissionDigests(candidate.name, sha256, hashlib.sha256(text.encode()).hexdigest())
        book.settle(folder / SUBMISSION_MANIFEST)
        book.announce(digests)
    book.submission(digests)
    return digests


def _manifest(
    config: SubmissionConfig,
    data: RunData,
    question: Question,
    combination: Combination,
    members: tuple[MemberPredictions, ...],
    plan: Plan,
    missing: Sequence[Missing],
    sha256: str,
) -> Manifest:
    split = data.splits[data.submitted]
    weights = dict(zip((one.member for one in members), combination.weights, strict=True))
    return Manifest(
        file=file_name(question.format),
        format=question.format,
        split=split.name,
        num_rows=len(split.rows),
        num_classes=len(data.classes),
        rows_sha256=split.rows_sha256,
        data_digest=data.digest,
        method=combination.method,
        weights=weights,
        weights_searched_on=fit.split if (fit := combination.fit) else None,
        weights_note=combination.note,
        members=tuple(
            ManifestMember(
                name=one.member,
                weight=weights[one.member],
                stage="" if one.member in plan.outside else plan.last_stages[one.member].stage,
                stage_hash="" if one.member in plan.outside else plan.last_stage(one.member).hash,
                predictions_sha256=one.about.sha256,
                checkpoint=one.about.checkpoint,
                checkpoint_sha256=one.about.checkpoint_sha256,
            )
            for one in members
        ),
        unreadable=tuple(row_id(question.format, split.rows[row]) for row in split.unreadable),
        class_ids=_class_ids_note(config, question),
        # The content of a file outside the run, without which the submission could not be made again.
        class_names=dict(question.class_ids) if config.class_ids and question.class_ids else None,
        template=_named_file(config.template),
        class_ids_file=_named_file(config.class_ids),
        septet_version=version("septet"),
        missing=tuple(missing),
        sha256=sha256,
        weights_given=combination.given,
        fit=fit,
        stacking=combination.stacking,
        calibration=combination.calibration,
        sets=combination.sets,
        uncertainty=UNCERTAINTY,
    )


def _class_ids_note(config: SubmissionConfig, question: Question) -> str:
    if config.class_ids is not None:
        return "ids from submission.class_ids"
    if question.class_ids is not None:
        return "ids of the dataset: those of its development kit"
    if question.format is SubmissionFormat.ilsvrc:
        return (
            "an id is the class's position in data/classes.txt, from 1; ILSVRC2012_IDs are not in that order: take the "
            "dataset from its development kit (dataset ilsvrc), or give submission.class_ids, for the real challenge"
        )
    return "class names as in data/classes.txt"


def _named_file(path: str | None) -> NamedFile | None:
    return None if path is None else NamedFile(path, sha256_of(Path(path)))


def _text(path: Path, key: str) -> str:
    try:
        return text_of(path.read_bytes(), f"{key}={path}")
    except OSError as error:
        raise ConfigError(f"{key}={path}: {error.strerror}; give a file that can be read") from error
