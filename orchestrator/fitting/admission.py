"""Estimates what one more member of a recipe would gain, from the predictions of those that are there. Pure."""

from collections.abc import Sequence

from threadpoolctl import threadpool_limits

from orchestrator.combine import Combination, Interval, Labels, Rows, equal
from orchestrator.config import CombineMethod, Metric
from orchestrator.fitting.choice import loss_interval
from orchestrator.fitting.sample import draw_sample


def estimate_gain(members: Sequence[Rows], labels: Labels, metric: Metric, confidence: float) -> Interval:
    """Returns how much lower the loss of the plain mean will be with one more member like the m ≥ 2 `members`.

    The mean over members of (loss without the member − loss with all) is the gain of going from m − 1 to m. If the loss
    exceeds that of endlessly many members by c / m, as Brier's is expected to, the next step gains (m − 1) / (m + 1) of
    it. The interval is a bootstrap over images (each member is rows × classes, with a label a row), two-sided with
    `confidence`. It does not count that other seeds give other members. NaN where the metric is not defined.
    """
    num = len(members)
    places = range(num)
    fewer = [tuple(0.0 if place == out else 1 / (num - 1) for place in places) for out in places]
    with threadpool_limits(1):
        sample = draw_sample(members, labels)
        parts = [(1 / num, sample.combined(Combination(CombineMethod.mean, weights))) for weights in fewer]
        parts.append((-1.0, sample.combined(equal(CombineMethod.mean, num))))
        found = loss_interval(parts, metric, confidence)
    share = (num - 1) / (num + 1)
    return Interval(share * found.estimate, share * found.low, share * found.high)
