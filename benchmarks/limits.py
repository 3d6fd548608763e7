"""Measures the machine's limits: the best rate of matrix products, and of copying memory."""

import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.turns import Turns

# m, k, n: squares, and AlexNet's layers as products at batch 128: conv2 (of one group), conv3, fc6.
_PRODUCTS = ((2048, 2048, 2048), (4096, 4096, 4096), (93312, 1200, 128), (21632, 2304, 384), (128, 9216, 4096))
_COPIED_BYTES = 2**28


def _best_seconds(work: Callable[[], object], tries: int = 3) -> float:
    seconds = []
    for _ in range(tries):
        since = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - since)
    return min(seconds)


def matrix_products(threads: int, turns: Turns) -> None:
    """Measures FLOP/s: the best over shapes and over bf16 and fp32. No net of matrix products can be faster."""
    torch.set_num_threads(threads)
    pairs = [
        (2 * m * k * n, torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype))
        for m, k, n in _PRODUCTS
        for dtype in (torch.bfloat16, torch.float32)
    ]

    def best_rate() -> float:
        return max(flops / _best_seconds(lambda left=left, right=right: left @ right) for flops, left, right in pairs)

    rate = best_rate()
    while True:
        turns.next(rate)
        rate = best_rate()


def copy_rate() -> float:
    """Measures the bytes per second that one core reads while it writes as many."""
    source = np.ones(_COPIED_BYTES, np.uint8)
    target = np.empty_like(source)
    return _COPIED_BYTES / _best_seconds(lambda: np.copyto(target, source), tries=5)
