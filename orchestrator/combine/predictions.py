"""Opens members' stored predictions; refuses any that are missing, damaged, of other data, or not probabilities.

The members come from the plan, never from a folder's listing. Files are read in blocks, not mapped: pages of a mapped
file count as this process's memory, and seven members of 100,000 × 1,000 are 2.8 GB. A file is opened once and stays
open: the bytes that were checked are those combined, even if the file is replaced.

Checking is a separate pass before any use. sha256 dominates it (2 GB/s a core; reading again takes 28 GB/s), so one
pass for both would save little. Members are checked in parallel.
"""

import hashlib
import os
import weakref
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from threading import Lock
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from orchestrator.combine.rows import Block, blocks
from orchestrator.plan import OutsideFile
from orchestrator.run import Committed, SplitData, alteration
from workers.errors import CheckFailed, MemberFailed, SeptetError
from workers.protocol import SplitPredictions
from workers.storage import Finished, layout, parse_json, storage_errors
from workers.threads import map_in_order

SUM_TOLERANCE = 1e-3
_SHOWN_ROWS = 3
# NumPy parses a header with `ast`, at which CPython 3.11 sometimes fails if two threads do it at once.
_ONE_HEADER = Lock()


@dataclass(frozen=True)
class MemberPredictions:
    """One member's checked probabilities of a split; any number of threads may read slices from disk.

    `uniform` are the sorted rows whose image could not be read: their probabilities are replaced by uniform ones.
    """

    member: str
    path: Path
    about: SplitPredictions
    offset_bytes: int
    uniform: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.about.num_rows, self.about.num_classes)

    def __getitem__(self, rows: slice, /) -> Block:
        """Returns rows `start:stop` (step 1) as a new float32 array (rows, classes)."""
        start, stop, step = rows.indices(self.about.num_rows)
        assert step == 1, "a contiguous slice"
        block = self.stored(slice(start, max(start, stop)))
        for row in self.uniform[bisect_left(self.uniform, start) : bisect_left(self.uniform, stop)]:
            block[row - start] = 1 / self.about.num_classes
        return block

    def stored(self, rows: slice) -> Block:
        """Returns rows as the file has them, unreadable ones too; both bounds of `rows` are given."""
        block = np.empty((rows.stop - rows.start, self.about.num_classes), "<f4")
        offset_bytes = self.offset_bytes + rows.start * self.about.num_classes * block.itemsize
        self._read_bytes(block.reshape(-1).view(np.uint8).data, offset_bytes)
        return block

    def header(self) -> bytes:
        """Returns the file's bytes before the first row."""
        content = bytearray(self.offset_bytes)
        self._read_bytes(memoryview(content), 0)
        return bytes(content)

    def _read_bytes(self, target: memoryview, offset_bytes: int) -> None:
        while target:
            # One call may read less than was asked for: Linux stops at 2 GiB.
            with storage_errors(self.path):
                count = os.preadv(self._descriptor, [target], offset_bytes)
            if count == 0:
                raise CheckFailed(f"{self.path}: became shorter while it was read; run `septet launch` again")
            target, offset_bytes = target[count:], offset_bytes + count

    @cached_property
    def _descriptor(self) -> int:
        with storage_errors(self.path):
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, descriptor)
        return descriptor


# The reason why stored predictions are not valid.
Flaw = StrEnum("Flaw", "missing damaged other_images other_checkpoint altered")


@dataclass(frozen=True)
class Invalid:
    """Stored predictions that must not be used; `why` tells a person what is wrong and what to do."""

    flaw: Flaw
    why: str

    @property
    def error(self) -> SeptetError:
        return MemberFailed(self.why) if self.flaw is Flaw.missing else CheckFailed(self.why)


# What predictions were made by: a finished stage, or another tool.
Source = Finished | OutsideFile


@dataclass(frozen=True)
class Expected:
    """The inputs of valid predictions of a split; fields that are None are not compared.

    `data_digest` is the digest of the predicted dataset and `rows` its images; `finished` is the member's last
    stage, or the file that another tool made; `committed` is their sha256 in run.json, "" if it is not recorded.
    """

    data_digest: str
    rows: SplitData | None = None
    num_classes: int | None = None
    finished: Source | None = None
    committed: str | None = None


def open_predictions(
    directories: Mapping[str, Path],
    split: SplitData,
    num_classes: int,
    data_digest: str,
    finished: Mapping[str, Source] = MappingProxyType({}),
    committed: Committed | None = None,
    parts: Mapping[str, SplitData] = MappingProxyType({}),
) -> tuple[MemberPredictions, ...]:
    """Opens and checks every member's predictions of `split`, in the order of `directories` (member → folder).

    `finished` and `committed` are compared if they are given (see `Expected`). A member of `parts` has only those rows.

    Raises:
        MemberFailed: predictions of some members are missing (all are named).
        CheckFailed: a member's predictions are not valid (the first is named).
    """

    def check(member: str) -> MemberPredictions | Invalid:
        recorded = committed.of_predictions(member, split.name) if committed else None
        expected = Expected(data_digest, parts.get(member, split), num_classes, finished.get(member), recorded)
        return check_predictions(member, directories[member], split.name, expected)

    found = dict(zip(directories, map_in_order(check, directories), strict=True))
    invalid = {member: one for member, one in found.items() if isinstance(one, Invalid)}
    missing = [member for member, one in invalid.items() if one.flaw is Flaw.missing]
    if len(missing) > 1:
        raise MemberFailed(f"members {', '.join(missing)}: no predictions of {split.name}; run `septet launch` again")
    for member in missing or invalid:
        raise invalid[member].error
    return tuple(one for one in found.values() if isinstance(one, MemberPredictions))


def check_predictions(
    member: str, folder: Path, split: str, expected: Expected, *, read: bool = True
) -> MemberPredictions | Invalid:
    """Checks the predictions of `split` in `folder`: the one check that everything uses.

    Without `read` only their description is compared, and the probabilities are not read.

    Raises:
        StorageError: storage fails.
    """
    path, described = folder / layout.probabilities(split), folder / layout.described(split)
    try:
        with storage_errors(folder):
            if not (path.is_file() and described.is_file()):
                raise _Unusable(Flaw.missing, f"no predictions of {split} in {folder}; run `septet launch` again")
            about = _read_about(described)
            _compare(path, about, expected)
            uniform = tuple(sorted(expected.rows.unreadable)) if expected.rows else ()
            opened = MemberPredictions(member, path, about, _offset(path, about, expected), uniform)
            if read:
                _check_content(opened, expected.rows)
            # After the content, whose message says more.
            recorded = expected.committed
            if recorded is not None and (altered := alteration(str(path), str(about.sha256), recorded)):
                raise _Unusable(Flaw.altered, f"{altered}: run `septet launch` again, which predicts again")
            return opened
    except _Unusable as unusable:
        return Invalid(unusable.flaw, f"member {member}: {unusable}")


class _Unusable(Exception):
    def __init__(self, flaw: Flaw, why: str) -> None:
        super().__init__(why)
        self.flaw = flaw


def _read_about(path: Path) -> SplitPredictions:
    try:
        return SplitPredictions(**parse_json(path.read_text()))
    except (ValueError, TypeError) as error:
        raise _Unusable(Flaw.damaged, f"{path} is damaged ({error}); launch again") from error


def _compare(path: Path, about: SplitPredictions, expected: Expected) -> None:
    """Compares the description of the predictions with what is expected."""
    rows, finished = expected.rows, expected.finished
    if rows is not None and about.rows_sha256 != rows.rows_sha256:
        raise _Unusable(
            Flaw.other_images, f"{path} is of other images than data/{layout.rows(rows.name)}; launch again"
        )
    if about.data_digest != expected.data_digest:
        why = (
            f"{path} was predicted from images whose content is not that of data/{layout.DATASET} "
            f"(digest {str(about.data_digest)[:12]}, not {expected.data_digest[:12]}); run `septet launch` again"
        )
        raise _Unusable(Flaw.other_images, why)
    if finished is not None and about.checkpoint_sha256 != finished.checkpoint_sha256:
        why = (
            f"{path} is of another checkpoint ({about.checkpoint}) than run.json has done ({finished.checkpoint}); "
            "run `septet launch` again"
        )
        raise _Unusable(Flaw.other_checkpoint, why)


def _offset(path: Path, about: SplitPredictions, expected: Expected) -> int:
    """Returns the byte offset of the first row, after checking that the header has the expected shape."""
    try:
        with _ONE_HEADER:
            header = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise _Unusable(Flaw.damaged, f"{path} is not a whole .npy file ({error}); launch again") from error
    rows, said = expected.rows, (about.num_rows, about.num_classes)
    wanted = (
        about.num_rows if rows is None else len(rows.rows),
        about.num_classes if expected.num_classes is None else expected.num_classes,
    )
    if header.shape != wanted or header.dtype != np.dtype("<f4") or not header.flags.c_contiguous:
        why = f"{path} holds {header.dtype} {header.shape}, not float32 {wanted}{_rows_that_lack(header.shape, rows)}"
        raise _Unusable(Flaw.damaged, f"{why}; launch again")
    if said != wanted:
        described = path.with_name(layout.described(path.stem))
        why = f"{described} says {said[0]} rows of {said[1]} classes, not {wanted[0]} of {wanted[1]}"
        raise _Unusable(Flaw.damaged, f"{why}; launch again")
    return int(header.offset)


def _rows_that_lack(shape: tuple[int, ...], split: SplitData | None) -> str:
    """Names the first images without a row, in a file of too few rows."""
    num_rows = shape[0] if shape else 0
    if split is None or num_rows >= len(split.rows):
        return ""
    shown = ", ".join(f"{row} ({split.rows[row]})" for row in range(num_rows, len(split.rows))[:_SHOWN_ROWS])
    return f": {len(split.rows) - num_rows} images have no row, the first {shown}"


def improper(block: Block) -> NDArray[np.int64]:
    """Returns the rows of `block` (rows, classes) that are not probabilities."""
    # NaN fails every comparison and infinity makes the sum infinite, so neither passes.
    good = (block >= 0).all(axis=1) & (np.abs(block.sum(axis=1, dtype=np.float64) - 1) <= SUM_TOLERANCE)
    return np.flatnonzero(~good)


def _check_content(predictions: MemberPredictions, split: SplitData | None) -> None:
    """Checks in one pass the file's sha256, and that every row is a probability distribution."""
    digest = hashlib.sha256(predictions.header())
    bad: list[int] = []
    for rows in blocks(*predictions.shape):
        block = predictions.stored(rows)
        digest.update(block.data)
        if len(bad) < _SHOWN_ROWS:
            bad.extend((improper(block) + rows.start).tolist())
    if bad:
        shown = ", ".join(f"{row} ({split.rows[row]})" if split else str(row) for row in bad[:_SHOWN_ROWS])
        why = f"{predictions.path} has rows that are not probabilities, the first {shown}; launch again"
        raise _Unusable(Flaw.damaged, why)
    if digest.hexdigest() != predictions.about.sha256:
        described = layout.described(predictions.about.split)
        why = f"{predictions.path} differs from the sha256 in {described}: changed since it was predicted; launch again"
        raise _Unusable(Flaw.damaged, why)
