"""Reads corrected labels of training images (`datasets.<name>.relabel`), whatever the source is."""

import hashlib
import json
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from workers.data.ids import ids_of_rows
from workers.data.sources import Listing, LocalTree, Naming, read_table
from workers.errors import DataError, some
from workers.settings import DatasetSettings
from workers.storage import expanded

# In place of a class: the image is left out of train.
LEFT_OUT = "-"
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
        """16 hex digits of what changes, wherever it is written and in whatever order."""
        return hashlib.sha256(json.dumps(sorted(self.changes.items())).encode()).hexdigest()[:16]


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
        answers, by_split = _read(expanded(settings.relabel), listing.classes), listing.named_classes()
        train = by_split.pop("train")
        rows = {given: row for row, given in ids_of_rows(train, answers).items()}
        for given in [given for given in answers if given not in rows][:1]:
            raise DataError(f"{given}: {_why(given, train, by_split)}")
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
    for name in ("id", "correct"):
        if header.count(name) != 1:
            raise DataError(f"has no column {name}, or two (columns: {some(table.header, _MOST_NAMED)})")
    # Spreadsheets write 3.0 for the class 3.
    naming = Naming(None, all(name.isdecimal() for name in classes), none_is_negative=False)
    form_of = {unicodedata.normalize("NFC", name): name for name in classes}
    answers: dict[str, str] = {}
    for number, cells in table.lines:
        given, written = cells[header.index("id")], cells[header.index("correct")]
        answer = written if written in (LEFT_OUT, *form_of) else naming.clean(written)
        if not answer:
            continue
        answer = form_of.get(unicodedata.normalize("NFC", answer), answer)
        if answer != LEFT_OUT and answer not in form_of.values():
            near = _nearest(answer, classes) or f"known: {some(sorted(classes), _MOST_NAMED)}"
            raise DataError(f"line {number}: no class {answer}; {near}; {LEFT_OUT} leaves the image out")
        if not given or answers.setdefault(given, answer) != answer:
            why = f"{given} has another answer above" if given else "has no id"
            raise DataError(f"line {number}: {why}; correct the line")
    return answers


def _why(given: str, train: Collection[str], by_split: Mapping[str, Collection[str]]) -> str:
    """Returns what is wrong with an id that no training image has."""
    if ids_of_rows(train, [given]):
        return "another line names the same image; keep one"
    for split, names in by_split.items():
        if ids_of_rows(names, [given.removeprefix(f"{split}/")]):
            return f"is an image of {split}, and only training images are relabelled; remove the line"
    name = given.rpartition("/")[2]
    # To compare all names takes minutes where there are a million.
    alike = [row for row in train if row.rpartition("/")[2] == name] or sorted(train)[:: 1 + len(train) // 20_000]
    return f"no such training image; {_nearest(given, alike) or 'write paths below train/, as in data/oof.rows.txt'}"


def _nearest(name: str, known: Collection[str]) -> str:
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else ""
