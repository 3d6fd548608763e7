"""Compares the rows of the table image by image: intervals, paired differences, McNemar's test. Pure."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.combine import Interval
from orchestrator.fitting import mcnemar, mean_interval, wilson

# Which images a row gets wrong (images,): 0 or 1 of an average, the share of members of a row that is their mean.
Wrong = NDArray[np.float64]


@dataclass(frozen=True)
class Compared:
    """A row's top-1 error, and how much it differs from the first row's and from that of the row above; all in [−1, 1].

    Intervals are of 95 % over images, of these members. `p_above` is McNemar's, where both rows have one answer an
    image.
    """

    error: Interval
    than_first: Interval | None = None
    than_above: Interval | None = None
    p_above: float | None = None


@dataclass(frozen=True)
class Gain:
    """How much the ensemble's top-1 error differs from members', in [−1, 1] with 95 % intervals, paired over images.

    `best` names the member with the fewest errors on these images, and `p_best` is McNemar's. `than_mean` compares with
    the mean of members' errors.
    """

    best: str
    than_best: Interval
    p_best: float
    than_mean: Interval


def gain(ensemble: Wrong, members: Mapping[str, Wrong]) -> Gain:
    """Compares the answers of `ensemble` with those of each of `members`."""
    best = min(members, key=lambda name: members[name].sum())
    _, of_best = compare([members[best], ensemble])
    assert of_best.than_first is not None and of_best.p_above is not None, "one answer an image"
    return Gain(
        best, of_best.than_first, of_best.p_above, mean_interval(ensemble - np.mean([*members.values()], axis=0))
    )


def error_interval(wrong: Wrong) -> Interval:
    """Returns Wilson's interval of the error, or of a mean of members the bootstrap's."""
    return wilson(int(wrong.sum()), len(wrong)) if _is_one_answer(wrong) else mean_interval(wrong)


def compare(rows: Sequence[Wrong]) -> tuple[Compared, ...]:
    """Compares `rows`, in the table's order, on the same images."""
    compared = [Compared(error_interval(rows[0]))] if rows else []
    for above, wrong in itertools.pairwise(rows):
        p = None
        if _is_one_answer(above) and _is_one_answer(wrong):
            p = mcnemar(int((wrong > above).sum()), int((wrong < above).sum()))
        than_first, than_above = mean_interval(wrong - rows[0]), mean_interval(wrong - above)
        compared.append(Compared(error_interval(wrong), than_first, than_above, p))
    return tuple(compared)


def _is_one_answer(wrong: Wrong) -> bool:
    return bool(((wrong == 0) | (wrong == 1)).all())


def compared_json(rows: Mapping[str, Compared]) -> dict[str, Any]:
    """Returns what scores.json says of each row by name; what a row does not have is absent."""
    return {name: {key: value for key, value in asdict(one).items() if value is not None} for name, one in rows.items()}
