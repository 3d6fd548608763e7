"""Metrics over stored probabilities are scikit-learn's."""

import numpy as np
import pytest
import sklearn.metrics as theirs

from orchestrator.config import Metric
from orchestrator.fitting.metrics import image_losses, loss, read_answers, value


def _case(num_classes, num_rows=700, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(num_classes, size=num_rows)
    logits = generator.normal(size=(num_rows, num_classes)) + 2.0 * (labels[:, None] == np.arange(num_classes))
    rows = np.exp(logits)
    return (rows / rows.sum(axis=1, keepdims=True)).astype(np.float32), labels


@pytest.mark.parametrize("num_classes", [2, 7])
def test_value_of_every_metric_equals_scikit_learns(num_classes):
    rows, labels = _case(num_classes)
    exact, guess, names = rows.astype(np.float64), rows.argmax(axis=1), range(num_classes)
    wanted = {
        Metric.top1: theirs.accuracy_score(labels, guess),
        Metric.top5: 1.0 if num_classes < 6 else theirs.top_k_accuracy_score(labels, exact, k=5, labels=names),
        Metric.log_loss: theirs.log_loss(labels, exact, labels=names),
        Metric.brier: theirs.brier_score_loss(labels, exact, labels=names),
        Metric.macro_f1: theirs.f1_score(labels, guess, average="macro"),
        Metric.balanced_accuracy: theirs.balanced_accuracy_score(labels, guess),
        Metric.qwk: theirs.cohen_kappa_score(labels, guess, weights="quadratic"),
        Metric.auc: theirs.roc_auc_score(labels, exact[:, 1])
        if num_classes == 2
        else np.mean([theirs.roc_auc_score(labels == one, exact[:, one]) for one in names]),
    }
    assert set(wanted) == set(Metric)
    for metric, said in wanted.items():
        assert value(metric, rows, labels) == pytest.approx(said, abs=1e-12), metric


def test_value_of_auc_with_classes_without_images_averages_over_the_others():
    rows, labels = _case(7)
    labels[labels == 3] = 4
    areas = [theirs.roc_auc_score(labels == one, rows[:, one]) for one in (0, 1, 2, 4, 5, 6)]
    assert value(Metric.auc, rows, labels) == pytest.approx(np.mean(areas), abs=1e-12)


@pytest.mark.parametrize("num_classes", [2, 5])
def test_value_of_auc_with_equal_probabilities_shares_places_as_scikit_learn_does(num_classes):
    generator = np.random.default_rng(4)
    rows, labels = generator.integers(4, size=(300, num_classes)) / 4, generator.integers(num_classes, size=300)
    areas = [theirs.roc_auc_score(labels == one, rows[:, one]) for one in range(num_classes)]
    wanted = areas[1] if num_classes == 2 else np.mean(areas)
    assert value(Metric.auc, rows, labels) == pytest.approx(wanted, abs=1e-12)


def test_value_of_macro_scores_with_classes_without_images_equals_scikit_learns():
    rows, labels = _case(7)
    labels[labels == 3] = 4
    guess = rows.argmax(axis=1)
    assert value(Metric.macro_f1, rows, labels) == pytest.approx(theirs.f1_score(labels, guess, average="macro"))
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        wanted = theirs.balanced_accuracy_score(labels, guess)
    assert value(Metric.balanced_accuracy, rows, labels) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("metric", [Metric.top1, Metric.top5, Metric.log_loss, Metric.brier])
def test_image_losses_have_the_mean_that_is_the_loss(metric):
    rows, labels = _case(7)
    losses = image_losses(metric, read_answers(rows, labels))
    assert losses.mean() == pytest.approx(loss(metric, value(metric, rows, labels)), abs=1e-12)
    assert image_losses(Metric.qwk, read_answers(rows, labels)) is None


def test_read_answers_of_equal_probabilities_takes_the_first_class():
    rows = np.full((3, 4), 0.25, np.float32)
    answers = read_answers(rows, np.array([0, 1, 3]))
    assert answers.guess.tolist() == [0, 0, 0]
    assert answers.rank.tolist() == [0, 1, 3]
