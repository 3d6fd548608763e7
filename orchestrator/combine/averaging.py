"""Combines members' probabilities: mean, weighted mean, geometric mean. Pure: values in, values out.

Sums are made in float64, in the order given, and rounded to float32 once. The order of the members can therefore
move a probability by one float32 rounding at most, and hardly ever does; callers that need the same bytes for any
order give the members in a fixed one (`aggregate` sorts by name).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from orchestrator.combine.rows import SMALLEST_PROBABILITY, Block, FileRows, Rows, StoredRows, blocks
from orchestrator.config import CombineMethod
from workers.kernels.average import weighted_sum, weighted_sum_of_files


@dataclass(frozen=True)
class Combination:
    """A method and each member's share (shares sum to 1).

    `searched_on` names the split that weights were looked for on, `note` says why it was not the usual one.
    """

    method: CombineMethod
    weights: tuple[float, ...]
    searched_on: str | None = None
    note: str | None = None


def equal(method: CombineMethod, num_members: int) -> Combination:
    """The combination in which every member counts the same."""
    return Combination(method, (1 / num_members,) * num_members)


@dataclass(frozen=True)
class Combined:
    """The combined probabilities of `members`, computed when a slice is taken; memory is that of the slice."""

    members: Sequence[Rows]
    combination: Combination
    # What stored rows are read into; taken out while in use, so that slices can be taken in several threads.
    _spare: list[Block] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        assert self.members, "nothing to combine"
        assert len(self.members) == len(self.combination.weights), "one weight a member"
        assert len({member.shape for member in self.members}) == 1, "members of one shape"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.members[0].shape

    def __getitem__(self, rows: slice, /) -> Block:
        """Rows `start:stop` (step 1) as a fresh float32 array."""
        start, stop, step = rows.indices(self.shape[0])
        assert step == 1, "a contiguous slice"
        # A member of weight 0 is still a member, but need not be read.
        counted = [
            (member, weight) for member, weight in zip(self.members, self.combination.weights, strict=True) if weight
        ]
        members = [member for member, _ in counted]
        weights = [weight for _, weight in counted]
        output = np.empty((max(0, stop - start), self.shape[1]), np.float32)
        # So few rows at a time that all members' stay in the cache between being read and being summed.
        parts = tuple(blocks(len(output), self.shape[1] * len(counted)))
        if not parts:
            return output
        room = self._take_room(len(counted), parts[0].stop)
        geometric = self.combination.method is CombineMethod.geometric
        if geometric or not _sum_files(members, weights, start, room, output):
            combine = _geometric if geometric else weighted_sum
            reads = [_reader(member, own) for member, own in zip(members, room, strict=True)]
            for part in parts:
                rows = slice(start + part.start, start + part.stop)
                combine([read(rows) for read in reads], weights, output[part])
        self._spare.append(room)
        return output

    def _take_room(self, num_members: int, num_rows: int) -> Block:
        """(members, rows, classes), uninitialised: one that has been given back, if it is large enough."""
        try:
            room = self._spare.pop()
        except IndexError:
            room = np.empty((0, 0, 0), np.float32)
        return room if room.shape[1] >= num_rows else np.empty((num_members, num_rows, self.shape[1]), np.float32)


def _sum_files(members: Sequence[Rows], weights: Sequence[float], start: int, room: Block, output: Block) -> bool:
    """Writes the weighted sum of the rows from `start` on, if all members lie in files that can be read; says whether.

    The bits are those of reading and summing in turn, which is left to name a file that can't be read.
    """
    stored = [member for member in members if isinstance(member, FileRows)]
    if len(stored) < len(members):
        return False
    if not weighted_sum_of_files([member.stored_at(start) for member in stored], weights, room, output):
        return False
    stop = start + len(output)
    for row in {row for member in stored for row in member.uniform if start <= row < stop}:
        weighted_sum([member[row : row + 1] for member in stored], weights, output[row - start : row - start + 1])
    return True


def _reader(member: Rows, room: Block) -> Callable[[slice], Block]:
    """Gives rows of `member`: in `room` (rows, classes) where they must be read, else as `member` gives them."""
    if not isinstance(member, StoredRows):
        return member.__getitem__

    def read(rows: slice) -> Block:
        block = room[: rows.stop - rows.start]
        member.read_into(rows.start, block)
        return block

    return read


def mean(members: Sequence[Rows]) -> Combined:
    """The plain average of `members`, as the paper submits it."""
    return Combined(members, equal(CombineMethod.mean, len(members)))


def _geometric(members: Sequence[Block], weights: Sequence[float], output: Block) -> None:
    # Without the floor one member's exact zero would veto a class, and two such members all of them.
    total = np.zeros(output.shape)
    term = np.empty_like(total)
    for member, weight in zip(members, weights, strict=True):
        np.maximum(member, SMALLEST_PROBABILITY, out=term, dtype=np.float64)
        np.log(term, out=term)
        term *= weight
        total += term
    total -= total.max(axis=1, keepdims=True)
    np.exp(total, out=total)
    total /= total.sum(axis=1, keepdims=True)
    output[...] = total
