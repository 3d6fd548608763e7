"""Errors, NLL, calibration, disagreement, and the rows of the table."""

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scored_rows import score

from orchestrator.combine import Combined, equal, mean, rows as probabilities
from orchestrator.config import CombineMethod
from orchestrator.report.scores import (
    disagreements,
    error_correlations,
    mean_score,
    read_images,
    table_rows,
)


def draw(seed, num_rows=60, num_classes=9):
    return np.random.default_rng(seed).dirichlet(np.full(num_classes, 0.3), size=num_rows).astype(np.float32)


@given(seed=st.integers(0, 10_000))
def test_score_any_probabilities_top5_error_not_above_top1(seed):
    labels = np.random.default_rng(seed).integers(0, 9, size=60)
    result = score(draw(seed), labels)
    assert 0 <= result.top5_error <= result.top1_error <= 1
    assert 0 <= result.ece <= 1


@given(seed=st.integers(0, 10_000), k=st.integers(1, 9))
def test_ranks_coarse_values_agree_with_stable_sort_and_top_classes(seed, k):
    generator = np.random.default_rng(seed)
    block = generator.integers(0, 4, size=(20, 9)).astype(np.float32)
    labels = generator.integers(0, 9, size=20)
    order = np.argsort(-block, axis=1, kind="stable")
    np.testing.assert_array_equal(probabilities.top_classes(block, k), order[:, :k])
    np.testing.assert_array_equal(probabilities.ranks(block, labels), (order == labels[:, None]).argmax(axis=1))


def test_score_many_blocks_equals_whole(monkeypatch):
    labels = np.random.default_rng(1).integers(0, 9, size=60)
    whole = score(draw(1), labels)
    monkeypatch.setattr("orchestrator.report.scores._HELD_ELEMENTS", 9 * 7)
    in_blocks = score(draw(1), labels)
    assert in_blocks == whole


def test_score_of_known_values():
    uniform = score(np.full((4, 2), 0.5, dtype=np.float32), np.array([0, 0, 1, 0]))
    assert (uniform.top1_error, uniform.top5_error) == (0.25, 0)
    assert (uniform.nll, uniform.ece) == (pytest.approx(math.log(2)), pytest.approx(0.25))
    # Negative zero would be shown as -0.0000.
    assert f"{score(np.array([[1.0, 0.0]], dtype=np.float32), np.array([0])).nll:.4f}" == "0.0000"
    certain_and_wrong = score(np.array([[1.0, 0.0]], dtype=np.float32), np.array([1]))
    assert (certain_and_wrong.nll, certain_and_wrong.ece) == (pytest.approx(-math.log(1e-12)), 1)
    # Confidence on the edge of a bin: both of 0.6, one right, fall in the lower one, with an accuracy of 0.5.
    rows = np.array([[0.6, 0.4], [0.6, 0.4], [0.62, 0.38]])
    assert score(rows, np.array([0, 1, 0])).ece == pytest.approx((2 * 0.1 + 0.38) / 3)


@given(seed=st.integers(0, 10_000))
def test_disagreements_any_members_symmetric_and_zero_with_itself(seed):
    members = [draw(seed), draw(seed + 1), draw(seed + 2)]
    found = disagreements(np.stack([one.guess for one in read_images(members, np.zeros(60, np.int64))]))
    first = [member.argmax(axis=1) for member in members]
    np.testing.assert_array_equal(found, [[(one != other).mean() for other in first] for one in first])
    np.testing.assert_array_equal(found, found.T)


@pytest.mark.filterwarnings("error")
def test_error_correlations_of_one_image_are_not_known():
    assert np.isnan(error_correlations(np.array([[0], [1]]), np.array([0]))).all()


def test_error_correlations_of_known_errors():
    labels = np.zeros(4, dtype=np.int64)
    correlations = error_correlations(np.array([[0, 0, 1, 1], [2, 2, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]]), labels)
    np.testing.assert_allclose(correlations[:3, :3], [[1, -1, 0], [-1, 1, 0], [0, 0, 1]], atol=1e-12)
    assert np.isnan(correlations[3]).all()


def test_mean_score_of_members_is_mean_of_each_field():
    labels = np.zeros(60, dtype=np.int64)
    own = [score(draw(seed), labels) for seed in range(3)]
    assert mean_score(own).top1_error == pytest.approx(np.mean([one.top1_error for one in own]))
    assert mean_score(own).nll == pytest.approx(np.mean([one.nll for one in own]))


@pytest.mark.parametrize(
    ("num_base", "num_pretrained", "names"),
    [
        (5, 2, ["1 CNN", "5 CNNs", "1 CNN*", "7 CNNs*"]),
        (3, 0, ["1 CNN", "3 CNNs"]),
        (1, 0, ["1 CNN"]),
        (1, 1, ["1 CNN", "1 CNN*", "2 CNNs*"]),
        (0, 3, ["1 CNN*", "3 CNNs*"]),
        (0, 1, ["1 CNN*"]),
    ],
)
def test_table_rows_real_counts_leave_out_empty_and_repeated(num_base, num_pretrained, names):
    base = [f"base{index}" for index in range(num_base)]
    pretrained = [f"deep{index}" for index in range(num_pretrained)]
    rows = table_rows(base, pretrained)
    assert [row.name for row in rows] == names
    assert len({(row.members, row.averaged) for row in rows}) == len(rows)
    for row in rows:
        assert row.averaged == row.name.split("*")[0].endswith("CNNs")
        assert set(row.members) <= set(base + pretrained)


class Counted:
    """Rows that count how often each is read."""

    def __init__(self, rows):
        self.rows, self.shape, self.reads = rows, rows.shape, np.zeros(len(rows), int)

    def __getitem__(self, rows):
        self.reads[rows] += 1
        return self.rows[rows]


def test_read_images_reads_each_member_once_and_combines_the_blocks(monkeypatch):
    monkeypatch.setattr("orchestrator.report.scores._HELD_ELEMENTS", 9 * 7 * 3)
    labels, arrays = np.random.default_rng(4).integers(0, 9, size=60), [draw(seed) for seed in range(3)]
    members = [Counted(rows) for rows in arrays]
    all_of_them, two = mean(members), Combined(members[1:], equal(CombineMethod.geometric, 2))
    read = read_images([*members, all_of_them, two], labels)
    assert all((member.reads == 1).all() for member in members)
    for found, rows in zip(read, [*arrays, mean(arrays)[:], Combined(arrays[1:], two.combination)[:]], strict=True):
        np.testing.assert_array_equal(found.guess, rows.argmax(axis=1))
        np.testing.assert_array_equal(found.place, probabilities.ranks(rows, labels))
        np.testing.assert_array_equal(found.right, rows[np.arange(60), labels])
        np.testing.assert_array_equal(found.confidence, rows.max(axis=1))
    np.testing.assert_allclose(read[3].squares, (mean(arrays)[:].astype(float) ** 2).sum(axis=1))
    np.testing.assert_array_equal(read[0].at(np.array([5, 2])).guess, read[0].guess[[5, 2]])
    assert read[0].squares.size == 0 == read[3].set_size.size
