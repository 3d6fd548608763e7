"""Reads a written submission as its receiver would, and compares it with the probabilities. Pure except for reading.

This does not use the layout of the file: it looks ids up in the split's rows, turns class names back into indexes, and
counts how many classes are more probable than each guess. It detects off-by-one class ids and shuffled rows.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from orchestrator.combine import Block, Rows, blocks, gather, ranks
from orchestrator.config import SubmissionFormat
from orchestrator.submission.formats import MAX_GUESSES, Question, is_csv
from workers.data.ids import spellings
from workers.errors import CheckFailed

_SUM_TOLERANCE = 1e-3
_NOT_THE_BEST = "its classes are not the most probable ones, best first"


@dataclass(frozen=True)
class Line:
    """One parsed line; `values` are class names best first, or probabilities as text."""

    number: int
    image_id: str
    values: tuple[str, ...]


def check_submission(path: Path, question: Question, probabilities: Rows) -> None:
    """Raises CheckFailed, naming the first line that differs from `probabilities` (rows, classes)."""
    checker = _Checker(question)
    expected = _expected_rows(question)
    # newline="" as csv requires: a quoted id may contain a line feed.
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        lines = _parsed(file, question)
        for part in blocks(len(expected), len(question.classes)):
            order = expected[part]
            block = gather(probabilities, np.array(order))
            try:
                for row, wanted in zip(order, block, strict=True):
                    line = next(lines, None)
                    if line is None:
                        raise CheckFailed(
                            f"submission: fewer lines than the {len(expected)} images; nothing was replaced"
                        )
                    checker.check(line, row, wanted)
            finally:
                # Even if a line has failed: a wrong guess on an earlier line is reported first.
                checker.check_guesses(block)
        surplus = next(lines, None)
    if surplus is not None:
        raise _failed(surplus.number, f"more lines than the {len(expected)} images")


def _failed(number: int, what: str) -> CheckFailed:
    return CheckFailed(f"submission line {number}: {what}; nothing was replaced; this is a bug in septet: report it")


def _expected_rows(question: Question) -> list[int]:
    """Returns the row index that each line must be about."""
    if question.template is None:
        return list(range(len(question.rows)))
    every = [spellings(row) for row in question.rows]
    for spelled in zip(*every, strict=True):
        index = {name: number for number, name in enumerate(spelled)}
        if all(image_id in index for image_id in question.template.ids):
            return [index[image_id] for image_id in question.template.ids]
    raise CheckFailed("submission: the template's ids are not those of the images")


def _parsed(lines: Iterable[str], question: Question) -> Iterator[Line]:
    if not is_csv(question.format):
        for number, text in enumerate(lines, start=1):
            if not text.endswith("\n") or not text.strip():
                raise _failed(number, "blank or without a line end")
            words = text.split()
            if question.format is SubmissionFormat.ilsvrc:
                yield Line(number, "", tuple(words))
            else:
                yield Line(number, words[0], tuple(words[1:]))
        return
    reader = csv.reader(lines, strict=True)
    header = next(reader, [])
    _check_header(header, question)
    for number, cells in enumerate(reader, start=2):
        if len(cells) != len(header):
            raise _failed(number, f"{len(cells)} cells under {len(header)} columns")
        yield Line(number, cells[0], tuple(cells[1:]))


def _check_header(header: Sequence[str], question: Question) -> None:
    if question.template is not None and tuple(header) != question.template.header:
        raise _failed(1, "the header is not the template's")
    if question.template is None and question.format is SubmissionFormat.kaggle_loc:
        if list(header) != ["ImageId", "PredictionString"]:
            raise _failed(1, "the header is not ImageId,PredictionString")
    elif question.template is None and (not header or header[0] != "id"):
        raise _failed(1, "the header does not start with id")
    if question.format is SubmissionFormat.probabilities:
        known = list(_index_by_name(question))
        columns = list(header[1:])
        if sorted(columns) != sorted(known) or (question.template is None and columns != known):
            raise _failed(1, "the columns are not the classes in their order")


def _index_by_name(question: Question) -> dict[str, int]:
    """Returns the class index by the class's name in the file."""
    if question.class_ids is not None:
        return {question.class_ids[name]: index for index, name in enumerate(question.classes)}
    if question.format is SubmissionFormat.ilsvrc:
        return {str(number): number - 1 for number in range(1, len(question.classes) + 1)}
    return {name: index for index, name in enumerate(question.classes)}


class _Checker:
    """Compares lines one by one; keeps the index of names and the order of columns."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._index = _index_by_name(question)
        header = question.template.header[1:] if question.template else tuple(self._index)
        self._columns = header if question.format is SubmissionFormat.probabilities else ()
        self._ids = {SubmissionFormat.tiny_imagenet: "name", SubmissionFormat.kaggle_loc: "stem"}
        self._guessed: list[list[int]] = []
        self._guessed_on: list[int] = []

    def check(self, line: Line, row: int, probabilities: NDArray[np.float32]) -> None:
        """Raises CheckFailed unless `line` is about image `row` and agrees with its `probabilities` (classes,).

        Guesses are only parsed and kept for `check_guesses`.
        """
        if self._question.format is not SubmissionFormat.ilsvrc and line.image_id not in self._spellings(row):
            raise _failed(line.number, f"id {line.image_id!r} where image {self._question.rows[row]!r} belongs")
        if self._question.format is SubmissionFormat.probabilities:
            self._check_probabilities(line, probabilities)
        else:
            self._keep_guesses(line, row)

    def _spellings(self, row: int) -> tuple[str, ...]:
        name = self._question.rows[row]
        if self._question.template is not None:
            return spellings(name)
        attribute = self._ids.get(self._question.format)
        return (name if attribute is None else getattr(PurePosixPath(name), attribute),)

    def _check_probabilities(self, line: Line, probabilities: NDArray[np.float32]) -> None:
        try:
            values = np.array([float(value) for value in line.values])
        except ValueError as error:
            raise _failed(line.number, f"not a number ({error})") from error
        wanted = probabilities[[self._index[name] for name in self._columns]]
        if not (np.isfinite(values).all() and (values >= 0).all() and abs(values.sum() - 1) <= _SUM_TOLERANCE):
            raise _failed(line.number, f"its values sum to {values.sum():.6f} and are not probabilities")
        if not np.array_equal(values.astype(np.float32), wanted):
            raise _failed(line.number, "its values are not the combined probabilities")

    def check_guesses(self, block: Block) -> None:
        """Raises CheckFailed unless each kept line has its row's most probable classes in `block`; forgets the lines.

        `block` begins with the row of the first kept line.
        """
        if not self._guessed:
            return
        guesses, numbers = np.array(self._guessed), self._guessed_on
        self._guessed, self._guessed_on = [], []
        probabilities = np.take_along_axis(block[: len(guesses)], guesses, axis=1)
        better, worse = probabilities[:, :-1], probabilities[:, 1:]
        in_order = (better > worse) | ((better == worse) & (guesses[:, :-1] < guesses[:, 1:]))
        # Exactly the other guesses come before the last one.
        complete = ranks(block[: len(guesses)], guesses[:, -1]) == guesses.shape[1] - 1
        wrong = np.flatnonzero(~(in_order.all(axis=1) & complete))
        if wrong.size:
            raise _failed(numbers[wrong[0]], _NOT_THE_BEST)

    def _keep_guesses(self, line: Line, row: int) -> None:
        names = self._guesses(line, row)
        unknown = [name for name in names if name not in self._index]
        if unknown:
            raise _failed(line.number, f"no class is called {unknown[0]!r}")
        several = self._question.format in (SubmissionFormat.ilsvrc, SubmissionFormat.kaggle_loc)
        if len(names) != min(MAX_GUESSES if several else 1, len(self._index)):
            raise _failed(line.number, _NOT_THE_BEST)
        self._guessed.append([self._index[name] for name in names])
        self._guessed_on.append(line.number)

    def _guesses(self, line: Line, row: int) -> list[str]:
        if self._question.format is not SubmissionFormat.kaggle_loc:
            return list(line.values)
        words = line.values[0].split(" ")
        width, height = self._question.sizes[row].tolist()
        boxes = {tuple(words[start + 1 : start + 5]) for start in range(0, len(words), 5)}
        if boxes != {("0", "0", str(width), str(height))}:
            raise _failed(line.number, f"its boxes are not the whole image of {width} × {height} pixels")
        return words[::5]
