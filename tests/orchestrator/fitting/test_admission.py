"""The gain of one more member: its definition, the law behind it, and metrics that are no mean over images."""

import math

import numpy as np
import pytest
from synthetic import Case, draw

from orchestrator.config import Metric
from orchestrator.fitting.admission import estimate_gain
from orchestrator.fitting.metrics import loss, value


def of_mean(members, labels, metric):
    return loss(metric, value(metric, np.mean(members, axis=0), labels))


@pytest.mark.parametrize("metric", [Metric.top1, Metric.log_loss, Metric.macro_f1])
@pytest.mark.parametrize("num", [2, 4])
def test_gain_is_that_of_the_last_member_scaled_to_the_next(num, metric):
    members, labels = draw(Case(num, 4, metric, 120), 3)
    fewer = [of_mean(members[:out] + members[out + 1 :], labels, metric) for out in range(num)]
    gain = (np.mean(fewer) - of_mean(members, labels, metric)) * (num - 1) / (num + 1)
    found = estimate_gain(members, labels, metric, 0.9)
    assert found.estimate == pytest.approx(gain, abs=1e-6)
    assert found.low < found.estimate < found.high


def test_gain_by_auc_is_scaled_too():
    members, labels = draw(Case(2, 2, Metric.auc, 60), 3)
    gain = np.mean([of_mean([one], labels, Metric.auc) for one in members]) - of_mean(members, labels, Metric.auc)
    assert estimate_gain(members, labels, Metric.auc, 0.9).estimate == pytest.approx(gain / 3, abs=1e-6)


def test_gain_by_brier_is_on_average_that_of_the_member_that_comes():
    found, true = [], []
    for seed in range(60):
        members, labels = draw(Case(5, 5, Metric.brier, 200), seed)
        found.append(estimate_gain(members[:4], labels, Metric.brier, 0.9).estimate)
        true.append(of_mean(members[:4], labels, Metric.brier) - of_mean(members, labels, Metric.brier))
    error = np.subtract(found, true)
    assert abs(error.mean()) < 3 * error.std() / math.sqrt(len(error))
    assert np.mean(found) > 10 * abs(error.mean())


def test_wider_confidence_has_a_higher_bound_and_equal_members_gain_nothing():
    members, labels = draw(Case(3, 4, Metric.top1, 200), 0)
    highs = [estimate_gain(members, labels, Metric.top1, confidence).high for confidence in (0.5, 0.9, 0.99)]
    assert highs == sorted(highs) and highs[0] < highs[-1]
    same = estimate_gain([members[0]] * 3, labels, Metric.top1, 0.9)
    assert same.estimate == 0 and 0 < same.high < 0.02


def test_gain_by_a_metric_that_is_not_defined_is_no_number():
    members, labels = draw(Case(2, 3, Metric.auc, 30), 0)
    assert math.isnan(estimate_gain(members, np.zeros_like(labels), Metric.auc, 0.9).high)
