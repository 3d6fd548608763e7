"""Reads corrected labels of training images (`datasets.<name>.relabel`), whatever the source is."""

import hashlib
import json
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from workers.data.sources.classes import Naming
from workers.data.sources.csv_table import read_table
from workers.data.sources.ids import ids_of_rows
from workers.data.sources.listing import Listing
from workers.data.sources.tree import LocalTree
from workers.errors import DataError, some
from workers.settings import DatasetSettings

# In place of a class: the image is left out of train.
LEFT_OUT = "-"
_ID, _CORRECT = "id", "correct"
_MOST_NAMED = 10


@dataclass(frozen=True)
class Relabelling:
    """What a file of corrections changes: each image's new class, or `LEFT_OUT`, by the name of its row.

    `num_same` lines say what the dataset says already. `key` is the setting, for messages.
    """

    key: str
    changes: Mapping[str, str]
    num_same: int

    @property
    def left_out(self) -> tuple[str, ...]:
        return tuple(sorted(name for name, answer in self.changes.items() if answer == LEFT_OUT))

    @property
    def digest(self) -> str:
        """The sha256 of what changes, wherever it is written and in whatever order; "" if nothing does."""
        return _sha256(sorted(self.changes.items())) if self.changes else ""

    @property
    def left_out_digest(self) -> str:
        return _sha256(self.left_out) if self.left_out else ""

    def line(self) -> str:
        num_left_out = len(self.left_out)
        counts = (f"{len(self.changes) - num_left_out:,} labels changed", f"{num_left_out:,} images left out")
        return f"relabel: {', '.join(counts)}, {self.num_same:,} rows say what the dataset says"


def read_relabelling(settings: DatasetSettings, listing: Listing) -> Relabelling | None:
    """Reads the file that `settings` name and finds its images in `listing`; None if they name none.

    Raises:
        DataError: the file is missing or malformed, has an unknown or ambiguous id, an unknown class, two answers for
            an image, or an image that is no training image.
    """
    if settings.relabel is None:
        return None
    key = f"relabel={settings.relabel}"
    try:
        answers, by_split = _read(Path(settings.relabel).expanduser(), listing.classes), listing.named_classes()
        train = by_split.pop("train")
        rows = {given: row for row, given in ids_of_rows(train, answers).items()}
        for given in answers.keys() - rows.keys():
            _explain(given, answers, train, by_split)
    except DataError as error:
        raise DataError(f"{key}: {error}") from error
    found = {row: answers[given] for given, row in rows.items()}
    changes = {row: answer for row, answer in found.items() if answer != train[row]}
    return Relabelling(key, changes, len(found) - len(changes))


def _read(path: Path, classes: Collection[str]) -> dict[str, str]:
    """Returns the answers by id, without the lines that have none."""
    if not path.is_file():
        raise DataError("no such file; give a csv file with the columns id and correct, such as a report's review.csv")
    table = read_table(LocalTree(path.absolute().parent), path.name)
    header = [name.lower() for name in table.header]
    for name in (_ID, _CORRECT):
        if header.count(name) != 1:
            raise DataError(f"has no column {name}, or two (columns: {some(table.header, _MOST_NAMED)})")
    # Spreadsheets write 3.0 for the class 3.
    naming = Naming(None, all(name.isdecimal() for name in classes), none_is_negative=False)
    form_of = {unicodedata.normalize("NFC", name): name for name in classes}
    answers: dict[str, str] = {}
    for number, cells in table.lines:
        given, written = cells[header.index(_ID)], cells[header.index(_CORRECT)]
        answer = written if written in (LEFT_OUT, *form_of) else naming.clean(written)
        if not answer:
            continue
        answer = form_of.get(unicodedata.normalize("NFC", answer), answer)
        if answer != LEFT_OUT and answer not in form_of.values():
            near = _nearest(answer, classes) or f"known: {some(sorted(classes), _MOST_NAMED)}"
            raise DataError(f"line {number}: no class {answer}; {near}; {LEFT_OUT} leaves the image out")
        if not given or answers.setdefault(given, answer) != answer:
            raise DataError(f"line {number}: {given or 'no id'}: has another answer above, or no id; correct the line")
    return answers


def _explain(
    given: str, answers: Mapping[str, str], train: Collection[str], by_split: Mapping[str, Collection[str]]
) -> None:
    """Raises DataError about an id of no image, unless another line has the same answer for its image."""
    if same := ids_of_rows(train, [given]):
        (row,) = same
        other = ids_of_rows([row], answers)[row]
        if answers[other] != answers[given]:
            raise DataError(f"{given} and {other} are the same image, with two answers; keep one")
        return
    for split, names in by_split.items():
        if ids_of_rows(names, [given.removeprefix(f"{split}/")]):
            raise DataError(f"{given} is an image of {split}: only training images are relabelled; remove the line")
    name = given.rpartition("/")[2]
    # All names take minutes where there are a million.
    alike = [row for row in train if row.rpartition("/")[2] == name] or sorted(train)[:: 1 + len(train) // 20_000]
    near = _nearest(given, alike) or "ids are paths below train/, as in data/oof.rows.txt"
    raise DataError(f"no training image {given}; {near}")


def _nearest(name: str, known: Collection[str]) -> str:
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else ""


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
