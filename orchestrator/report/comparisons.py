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
