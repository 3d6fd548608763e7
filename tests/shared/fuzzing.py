"""Says how many inputs the fuzzed tests try: with `FUZZ=60` sixty times as many as a check does, others each time."""

import os
from collections.abc import Callable

from hypothesis import HealthCheck, settings

_TIMES = int(os.environ.get("FUZZ", "1"))


def fuzzed(num_inputs: int) -> Callable:
    return settings(
        max_examples=num_inputs * _TIMES,
        derandomize=_TIMES == 1,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
