"""Wrong labels that are planted are found first, and the definitions hold on a case worked out by hand."""

from functools import partial

import numpy as np
import pytest

from orchestrator.combine import blocks
from orchestrator.fitting import find_label_issues, label_issues

# Thresholds: (0.9 + 0.7 + 0.2) / 3 = 0.6, (0.6 + 0.05 + 0.55) / 3 = 0.4, and 0.3.
BY_HAND = np.array(
    [
        [0.9, 0.05, 0.05],  # surely 0, as labelled
        [0.7, 0.2, 0.1],
        [0.2, 0.75, 0.05],  # labelled 0, surely 1
        [0.1, 0.6, 0.3],  # reaches 1 and 2; 1, as labelled, is the more probable
        [0.9, 0.05, 0.05],  # labelled 1, surely 0
        [0.35, 0.55, 0.1],
        [0.5, 0.2, 0.3],  # labelled 2 and surely 2, though 0 is more probable: it does not reach its threshold
    ],
    np.float32,
)
LABELS = np.array([0, 0, 0, 1, 1, 1, 2])


def planted(share, seed=0):
    """Probabilities that are wrong for about 4 % of images, labels of which a share is wrong, and which those are."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(10, size=2000)
    scores = 1.5 * generator.normal(size=(2000, 10)) + 5 * (labels[:, None] == np.arange(10))
    powers = np.exp(scores)
    wrong = generator.choice(len(labels), round(share * len(labels)), replace=False)
    labels[wrong] = (labels[wrong] + generator.integers(1, 10, len(wrong))) % 10
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32), labels, set(wrong.tolist())


def test_case_by_hand_has_two_issues_the_more_certain_first():
    found = find_label_issues(BY_HAND, LABELS)
    assert found.rows.tolist() == [4, 2]
    assert (found.labels.tolist(), found.suggestions.tolist()) == ([1, 0], [0, 1])
    np.testing.assert_array_equal(found.label_probabilities, np.float32([0.05, 0.2]))
    np.testing.assert_array_equal(found.suggestion_probabilities, np.float32([0.9, 0.75]))
    # One of three labels 0 and one of three labels 1 are surely of another class.
    assert (found.num_wrong, found.num_images) == (2, 7)
    assert found.line() == "2 of 7 labels may be wrong"
    wanted = "By confident learning about 2 of the 7 labels are wrong (28.6 %); mistakes of weak members count too."
    assert found.estimate() == wanted


def test_label_that_is_the_first_guess_is_no_issue_though_another_class_is_reached():
    """It counts in the estimate: 0.5 does not reach the threshold of class 0, and 0.45 that of class 1."""
    rows = np.float32([[0.9, 0.1], [0.5, 0.45], [0.7, 0.3], [0.6, 0.4]])
    found = find_label_issues(rows, np.array([0, 0, 0, 1]))
    assert (len(found.rows), found.num_wrong) == (0, 1)


def test_ties_are_ordered_by_row_and_a_class_without_labels_is_never_suggested():
    rows = np.float32([[0.8, 0.2, 0.0]] * 3 + [[0.8, 0.2, 0.0], [0.8, 0.2, 0.0], [0.1, 0.9, 0.0], [0.0, 0.3, 0.7]])
    found = find_label_issues(rows, np.array([0, 0, 0, 1, 1, 1, 1]))
    assert found.rows.tolist() == [3, 4]
    assert set(found.suggestions.tolist()) == {0}


@pytest.mark.parametrize("seed", range(3))
def test_planted_wrong_labels_are_found_first_and_counted(seed):
    probabilities, labels, wrong = planted(0.03, seed)
    found = find_label_issues(probabilities, labels)
    first = found.rows[: len(wrong) // 2].tolist()
    assert len(wrong) == 60
    assert sum(row in wrong for row in first) >= 29
    assert len(wrong & set(found.rows.tolist())) > len(wrong) / 2
    assert abs(found.num_wrong - len(wrong)) <= 15
    none = find_label_issues(*planted(0.0, seed)[:2])
    assert len(none.rows) <= 5 and none.num_wrong <= 5


def test_read_in_small_blocks_it_finds_the_same(monkeypatch):
    probabilities, labels, _ = planted(0.03)
    whole = find_label_issues(probabilities, labels)
    monkeypatch.setattr(label_issues, "blocks", partial(blocks, max_elements=70))
    parts = find_label_issues(probabilities, labels)
    for name in ("rows", "labels", "suggestions", "label_probabilities", "suggestion_probabilities"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
    assert parts.num_wrong == whole.num_wrong
