"""Rows of the table are compared image by image."""

import numpy as np
import pytest

from orchestrator.fitting import mcnemar, mean_interval, wilson
from orchestrator.report.comparisons import compare, compared_json, error_interval, gain


def test_compare_of_averages_has_differences_and_mcnemars_test():
    first = np.array([1.0] * 40 + [0.0] * 60)
    better = np.array([1.0] * 22 + [0.0] * 70 + [1.0] * 8)
    alone, found = compare([first, better])
    assert (alone.than_first, alone.than_above, alone.p_above) == (None, None, None)
    assert found.error == wilson(30, 100)
    assert found.than_first == found.than_above
    assert found.than_first.estimate == pytest.approx(-0.1)
    assert found.than_first.low < -0.1 < found.than_first.high
    assert found.p_above == mcnemar(8, 18)


def test_compare_with_a_mean_of_members_has_no_mcnemars_test():
    mean = np.array([0.5, 1.0, 0.0, 0.25] * 25)
    _, found = compare([mean, np.array([1.0, 0.0] * 50)])
    assert found.p_above is None
    assert compared_json({"row": found})["row"].keys() == {"error", "than_first", "than_above"}


def test_compare_the_row_above_and_the_first_row_differ():
    rows = [np.repeat([1.0, 0.0], (wrong, 100 - wrong)) for wrong in (50, 40, 30)]
    assert compare(rows)[2].than_first.estimate == pytest.approx(-0.2)
    assert compare(rows)[2].than_above.estimate == pytest.approx(-0.1)


def test_error_interval_without_an_error_is_not_empty():
    found = error_interval(np.zeros(500))
    assert (found.estimate, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(0.0076, abs=1e-4)


def test_gain_is_paired_with_the_member_of_fewest_errors_and_with_the_mean_of_all():
    members = {"worst": np.repeat([1.0, 0.0], 50), "best": np.repeat([0.0, 1.0], (70, 30))}
    ensemble = np.repeat([0.0, 1.0], (80, 20))
    found = gain(ensemble, members)
    assert (found.best, found.p_best) == ("best", mcnemar(0, 10))
    assert found.than_best == mean_interval(ensemble - members["best"])
    assert found.than_mean == mean_interval(ensemble - (members["worst"] + members["best"]) / 2)
    alone = gain(ensemble, {"only": ensemble})
    assert (alone.than_best.estimate, alone.p_best) == (0.0, 1.0)
