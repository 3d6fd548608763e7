"""What members are to each other: left out where there is one, and cells and lines by their values."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from orchestrator.report.figures import pairs_chart
from orchestrator.report.worth import disagreement, number


def test_parts_of_a_single_member_are_left_out():
    alone = SimpleNamespace(main=SimpleNamespace(members={"base1": None}), worth=None)
    assert disagreement(alone) is None and number(alone) is None
    assert disagreement(SimpleNamespace(main=None)) is None


def titles(drawn):
    return re.findall(r"<title>([^<]*)</title>", drawn.inline)


def test_disagreement_says_the_value_of_each_two_members_and_writes_csv():
    matrix, alike = np.array([[0.0, 0.25], [0.25, 0.0]]), np.array([[1.0, np.nan], [np.nan, 1.0]])
    main = SimpleNamespace(members={"a": 0, "b": 0}, split="val", disagreement=0.25)
    main.disagreements, main.error_correlations = matrix, alike
    section = disagreement(SimpleNamespace(main=main))
    assert sorted(titles(section.drawings[0])) == ["a, b: –", "b, a: 25.0 %"]
    assert section.csv["disagreement"] == [("", "a", "b"), ("a", 0.0, 0.25), ("b", 0.25, 0.0)]
    assert "25.0 % on average" in section.drawings[0].caption


def test_pairs_chart_strongest_cell_is_the_largest_value():
    matrix = np.zeros((3, 3))
    matrix[1, 0], matrix[2, 0], matrix[2, 1] = 0.1, 0.2, 0.4
    drawn = pairs_chart(["a", "b", "c"], 100 * (matrix + matrix.T), np.eye(3), "said")
    cells = ("b, a: 10.0 %", "c, a: 20.0 %", "c, b: 40.0 %")
    found = [re.search(rf"{cell}</title>.*?opacity: ([\d.]+)", drawn.inline, re.DOTALL)[1] for cell in cells]
    assert list(map(float, found)) == pytest.approx([0.1125, 0.225, 0.45], abs=1e-4)
