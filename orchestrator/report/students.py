"""Scores students beside the ensemble that they learned from, as values and words. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.combine import Interval
from orchestrator.fitting import mean_interval
from orchestrator.report.comparisons import Compared, Wrong, compare
from orchestrator.report.scores import Reading, Score, score


@dataclass(frozen=True)
class Student:
    """A student's score, and how it compares as a row of the table, with the ensemble, and with the mean member."""

    score: Score
    compared: Compared
    than_ensemble: Interval
    than_members: Interval


def score_students(students: Mapping[str, Reading], rows: Sequence[Wrong], members: Wrong) -> dict[str, Student]:
    """Scores `students`, below the `rows` of the table, of which the ensemble is the last.

    `members` is the share of members that get an image wrong.
    """
    if not students:
        return {}
    wrongs = [one.wrong for one in students.values()]
    compared = compare([*rows, *wrongs])[len(rows) :]
    return {
        name: Student(score(one), row, mean_interval(wrong - rows[-1]), mean_interval(wrong - members))
        for (name, one), row, wrong in zip(students.items(), compared, wrongs, strict=True)
    }


def student_line(name: str, one: Student) -> str:
    """Returns a line like `STUDENT: student, one net: top-1 error 21.30 %, 1.20 points worse than …`."""
    apart = {"the ensemble": one.than_ensemble, "the mean member": one.than_members}
    said = ", ".join(_in_words(interval, other) for other, interval in apart.items())
    return f"STUDENT: {name}, one net: top-1 error {100 * one.score.top1_error:.2f} %, {said}."


def _in_words(apart: Interval, other: str) -> str:
    sign, verb = (-100, "better") if apart.estimate < 0 else (100, "worse")
    low, high = sorted((sign * apart.low, sign * apart.high))
    return f"{sign * apart.estimate:.2f} points {verb} than {other} (95 % interval {low:.1f} to {high:.1f})"
