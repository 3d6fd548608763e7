"""Opens members' stored predictions; none pass that are missing, damaged, of other data, or no probabilities.

The members are the plan's, never what a folder holds. Files are read in blocks, not mapped: pages of a mapped file
count as this process's memory, and seven members of 100,000 × 1,000 are 2.8 GB. A file is opened once and stays open:
what was checked is what is combined, even if another takes its name.

Checking is a pass of its own, before anything is made of the numbers. Its time is that of sha256 (2 GB a second and
core, where reading again takes 28 GB/s), so one pass for both would save little; members are checked side by side.
"""

import hashlib
import os
import weakref
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.combine.rows import Block, blocks
from orchestrator.run import SplitData
from workers.errors import CheckFailed, MemberFailed
from workers.protocol import SplitPredictions
from workers.storage import parse_json, storage_errors
from workers.threads import map_in_order

SUM_TOLERANCE = 1e-3
_SHOWN_ROWS = 3


@dataclass(frozen=True)
class MemberPredictions:
    """One member's checked probabilities of a split; slices are read from disk when taken, by any number of threads.

    `uniform` are, in order, the rows whose image could not be read: whatever the member says of them, they are uniform.
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
        """Rows `start:stop` (step 1) as a fresh float32 array."""
        start, stop, step = rows.indices(self.about.num_rows)
        assert step == 1, "a contiguous slice"
        block = self.stored(slice(start, max(start, stop)))
        for row in self.uniform[bisect_left(self.uniform, start) : bisect_left(self.uniform, stop)]:
            block[row - start] = 1 / self.about.num_classes
        return block

    def stored(self, rows: slice) -> Block:
        """As a slice, but as the file has the rows; both bounds of `rows` are given."""
        block = np.empty((rows.stop - rows.start, self.about.num_classes), "<f4")
        offset_bytes = self.offset_bytes + rows.start * self.about.num_classes * block.itemsize
        self._read_bytes(block.reshape(-1).view(np.uint8).data, offset_bytes)
        return block

    def header(self) -> bytes:
        """The file's bytes before the first row."""
        content = bytearray(self.offset_bytes)
        self._read_bytes(memoryview(content), 0)
        return bytes(content)

    def _read_bytes(self, target: memoryview, offset_bytes: int) -> None:
        while target:
            # One call may give less than was asked for: Linux stops at 2 GiB.
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


def open_predictions(
    directories: Mapping[str, Path], split: SplitData, num_classes: int, data_digest: str
) -> tuple[MemberPredictions, ...]:
    """Opens and checks every member's predictions of `split`, in the order of `directories` (member → folder).

    `data_digest` is that of the dataset whose images must have been predicted.

    Raises:
        MemberFailed: predictions of some members are missing (all are named).
        CheckFailed: a file is damaged, of other rows or classes, or holds rows that are no probabilities.
    """
    missing = [
        member
        for member, folder in directories.items()
        if not ((folder / f"{split.name}.npy").is_file() and (folder / f"{split.name}.json").is_file())
    ]
    if missing:
        plural = "members" if len(missing) > 1 else "member"
        raise MemberFailed(
            f"{plural} {', '.join(missing)}: no predictions of {split.name} in {directories[missing[0]]}; "
            "run `septet launch` again"
        )
    # In the members' order, so that of several bad files the first one is named.
    return tuple(
        map_in_order(lambda member: _open(member, directories[member], split, num_classes, data_digest), directories)
    )


def all_present(directories: Mapping[str, Path], split: str) -> bool:
    """Whether every member has a file of predictions of `split`, be it valid or not."""
    return all((folder / f"{split}.npy").is_file() for folder in directories.values())


def _open(member: str, folder: Path, split: SplitData, num_classes: int, data_digest: str) -> MemberPredictions:
    with storage_errors(folder):
        return _checked(member, folder, split, num_classes, data_digest)


def _checked(member: str, folder: Path, split: SplitData, num_classes: int, data_digest: str) -> MemberPredictions:
    path = folder / f"{split.name}.npy"
    about = _read_about(member, folder / f"{split.name}.json")
    if about.rows_sha256 != split.rows_sha256:
        raise CheckFailed(f"member {member}: {path} is of other images than data/{split.name}.rows.txt; predict again")
    if about.data_digest != data_digest:
        raise CheckFailed(
            f"member {member}: {path} was predicted from images whose content is not that of data/dataset.json "
            f"(digest {about.data_digest[:12]}, not {data_digest[:12]}); run `septet launch` again"
        )
    try:
        header = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise CheckFailed(f"member {member}: {path} is not a whole .npy file ({error}); predict again") from error
    wanted = (len(split.rows), num_classes)
    if header.shape != wanted or header.dtype != np.dtype("<f4") or not header.flags.c_contiguous:
        raise CheckFailed(
            f"member {member}: {path} holds {header.dtype} {header.shape}, not float32 {wanted}"
            f"{_rows_that_lack(header.shape, split)}; predict again"
        )
    if (about.num_rows, about.num_classes) != wanted:
        raise CheckFailed(
            f"member {member}: {path.with_suffix('.json')} says {about.num_rows} rows of {about.num_classes} classes, "
            f"not {wanted[0]} of {wanted[1]}; predict again"
        )
    opened = MemberPredictions(member, path, about, int(header.offset), tuple(sorted(split.unreadable)))
    del header
    _check_content(opened, split)
    return opened


def _rows_that_lack(shape: tuple[int, ...], split: SplitData) -> str:
    """Names the images that a file of too few rows says nothing of, if each row is of the image at its place."""
    num_rows = shape[0] if shape else 0
    if num_rows >= len(split.rows):
        return ""
    shown = ", ".join(f"{row} ({split.rows[row]})" for row in range(num_rows, len(split.rows))[:_SHOWN_ROWS])
    return f": of {len(split.rows) - num_rows} images it says nothing, the first {shown}"


def _read_about(member: str, path: Path) -> SplitPredictions:
    try:
        return SplitPredictions(**parse_json(path.read_text()))
    except (ValueError, TypeError) as error:
        raise CheckFailed(f"member {member}: {path} is damaged ({error}); predict again") from error


def _check_content(predictions: MemberPredictions, split: SplitData) -> None:
    """One pass over the file: its sha256, and that every row is a probability distribution."""
    digest = hashlib.sha256(predictions.header())
    bad: list[int] = []
    for rows in blocks(*predictions.shape):
        block = predictions.stored(rows)
        digest.update(block.data)
        if len(bad) < _SHOWN_ROWS:
            bad.extend((np.flatnonzero(~_are_distributions(block)) + rows.start).tolist())
    if bad:
        shown = ", ".join(f"{row} ({split.rows[row]})" for row in bad[:_SHOWN_ROWS])
        raise CheckFailed(
            f"member {predictions.member}: {predictions.path} has rows that are no probabilities, the first {shown}; "
            "predict again"
        )
    if digest.hexdigest() != predictions.about.sha256:
        raise CheckFailed(
            f"member {predictions.member}: {predictions.path} differs from the sha256 in "
            f"{predictions.path.with_suffix('.json').name}: changed since it was predicted; predict again"
        )


def _are_distributions(block: NDArray[Any]) -> NDArray[np.bool_]:
    # A NaN fails every comparison, an infinity makes the sum infinite: neither passes.
    sums = block.sum(axis=1, dtype=np.float64)
    result: NDArray[np.bool_] = (block >= 0).all(axis=1) & (np.abs(sums - 1) <= SUM_TOLERANCE)
    return result
