"""A fit in words."""

import pytest

from orchestrator.combine.fit import Interval, in_units
from orchestrator.config.schema import Metric


@pytest.mark.parametrize(
    ("one", "sign", "said"),
    [
        (Interval(0.004, -0.013, 0.005), "", "0.40 points (-1.30 to 0.50)"),
        (Interval(-0.00004, -0.00001, 0.00001), "", "0.00 points (0.00 to 0.00)"),
        (Interval(-0.00004, -0.0002, 0.0), "+", "+0.00 points (-0.02 to +0.00)"),
    ],
)
def test_interval_in_words_has_no_sign_at_zero_that_rounding_left(one, sign, said):
    assert in_units(Metric.top1, one, sign) == said
