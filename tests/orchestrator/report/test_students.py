"""A student's row, its difference to the ensemble, and the words for it."""

import json

import numpy as np
import pytest

from orchestrator.combine import STUDENT, Missing, mean
from orchestrator.fitting import mean_interval
from orchestrator.report.students import student_line
from orchestrator.report.table import Caveats, better_lines, score_split, split_json, table_lines, table_text

NUM_IMAGES = 60
LABELS = np.arange(NUM_IMAGES) % 10


def answers(wrong):
    """Probabilities whose first guess is wrong in the first `wrong` images."""
    guesses = np.where(np.arange(NUM_IMAGES) < wrong, (LABELS + 1) % 10, LABELS)
    return (0.9 * np.eye(10) + 0.01)[guesses].astype(np.float32)


def scored(*wrong_of_students):
    members = {"a": answers(30), "b": answers(20)}
    students = {f"s{number}": answers(wrong) for number, wrong in enumerate(wrong_of_students)}
    return score_split("test", members, ("a", "b"), (), mean(list(members.values())), LABELS, students)


def test_difference_to_the_ensemble_and_to_the_mean_member_is_paired():
    found = scored(24)
    one = found.students["s0"]
    assert one.score.top1_error == 24 / NUM_IMAGES
    of_ensemble = (answers(30) + answers(20)).argmax(axis=1) != LABELS
    of_student = np.arange(NUM_IMAGES) < 24
    assert one.than_ensemble == mean_interval(of_student.astype(float) - of_ensemble)
    assert one.compared.than_above == one.than_ensemble
    assert one.than_members.estimate == pytest.approx(24 / NUM_IMAGES - 25 / NUM_IMAGES)


def test_students_change_no_figure_of_the_others_and_stand_below_them():
    without, found = scored(), scored(24, 12)
    plain, more = (json.loads(json.dumps(split_json(one))) for one in (without, found))
    assert list(more.pop("students")) == ["s0", "s1"] and "students" not in plain
    assert more == plain
    lines = table_lines(found, Caveats())
    assert lines[: len(lines) - 2] == table_lines(without, Caveats())
    assert [line[:3] for line in lines[-2:]] == [
        ("s0, distilled", "1", "40.00 % (28.6 to 52.6)"),
        ("s1, distilled", "1", "20.00 % (11.8 to 31.8)"),
    ]
    # The first student's interval of the difference holds zero.
    assert better_lines(found) == (1, len(lines) - 1)


def test_words_say_worse_or_better_with_bounds_in_the_same_direction():
    found = scored(40, 12)
    worse, better = (student_line(name, one) for name, one in found.students.items())
    apart = found.students["s0"].than_ensemble
    assert worse.startswith(f"STUDENT: s0, one net: top-1 error 66.67 %, {100 * apart.estimate:.2f} points")
    assert f"worse than the ensemble (95 % interval {100 * apart.low:.1f} to {100 * apart.high:.1f})" in worse
    apart = found.students["s1"].than_ensemble
    assert f"better than the ensemble (95 % interval {-100 * apart.high:.1f} to {-100 * apart.low:.1f})" in better


def test_student_that_is_there_is_not_said_to_be_missing():
    there, failed = Missing("s0", STUDENT), Missing("s1", "s1/train: Diverged: …")
    text = table_text(scored(24), Caveats(missing=(there, failed)))
    assert [line for line in text.splitlines() if line.startswith("MISSING")] == [
        "MISSING: s1 is not in any row and not in the submission (s1/train: Diverged: …)."
    ]
