"""Scores students beside the ensemble that they learned from; as values, JSON and words. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from orchestrator.combine import Interval, Labels, Rows
from orchestrator.fitting import mcnemar, mean_interval
from orchestrator.report.comparisons import Compared, Wrong, compare
from orchestrator.report.scores import Score, score_images


@dataclass(frozen=True)
class Student:
    """A student's score, and how it compares: as a row of the table, and with the ensemble and the mean member.

    Differences of top-1 errors are above 0 where the student is worse; `p_ensemble` is McNemar's.
    """

    score: Score
    compared: Compared
    than_ensemble: Interval
    than_members: Interval
    p_ensemble: float


def score_students(
    students: Mapping[str, Rows], labels: Labels, rows: Sequence[Wrong], ensemble: Wrong, members: Wrong
) -> dict[str, Student]:
    """Scores `students` (name → rows × classes) against `labels` (rows,).

    Args:
        students: their probabilities.
        labels: of the images.
        rows: which images the rows above them in the table get wrong.
        ensemble: which images it gets wrong.
        members: the share of members that get an image wrong.
    """
    found = {name: score_images(own, labels) for name, own in students.items()}
    wrongs = [wrong.astype(np.float64) for _, wrong in found.values()]
    compared = compare([*rows, *wrongs])[len(rows) :]
    return {
        name: Student(
            score,
            row,
            mean_interval(wrong - ensemble),
            mean_interval(wrong - members),
            mcnemar(int((wrong > ensemble).sum()), int((wrong < ensemble).sum())),
        )
        for (name, (score, _)), row, wrong in zip(found.items(), compared, wrongs, strict=True)
    }


def students_json(students: Mapping[str, Student]) -> dict[str, Any]:
    """Returns what scores.json says of them, beside their errors."""
    return {
        name: {
            "than_ensemble": asdict(one.than_ensemble),
            "than_members": asdict(one.than_members),
            "p_ensemble": one.p_ensemble,
            "error": asdict(one.compared.error),
        }
        for name, one in students.items()
    }


def student_line(name: str, one: Student) -> str:
    """Returns a line like `STUDENT: student, one net: top-1 error 21.30 %, 1.20 points worse than …`."""
    ensemble, members = _in_words(one.than_ensemble, "the ensemble"), _in_words(one.than_members, "the mean member")
    return (
        f"STUDENT: {name}, one net: top-1 error {100 * one.score.top1_error:.2f} %, {ensemble}, {members}."
    )


def _in_words(apart: Interval, other: str) -> str:
    low, high = 100 * apart.low, 100 * apart.high
    if apart.estimate < 0:
        low, high = -high, -low
    verb = "better" if apart.estimate < 0 else "worse"
    return f"{100 * abs(apart.estimate):.2f} points {verb} than {other} (95 % interval {low:.1f} to {high:.1f})"
