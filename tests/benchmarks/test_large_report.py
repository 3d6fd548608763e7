"""A report's memory does not grow with images × classes × members."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from large_run import build_large_run

from orchestrator.combine import mean
from orchestrator.report.scores import read_images


class Repeated:
    """Rows (rows, classes) that are made when they are read."""

    def __init__(self, num_rows, num_classes, seed):
        self.block = np.random.default_rng(seed).dirichlet(np.ones(num_classes), 50).astype(np.float32)
        self.shape = (num_rows, num_classes)

    def __getitem__(self, rows):
        return self.block[np.arange(rows.start, rows.stop) % 50]


def test_read_images_holds_a_small_part_of_what_it_reads(monkeypatch):
    # On one thread; each other one holds as much.
    monkeypatch.setattr("orchestrator.report.scores.map_in_order", map)
    members = [Repeated(4_000, 500, seed) for seed in range(20)]
    labels = np.arange(4_000) % 500
    tracemalloc.start()
    read_images([*members, mean(members)], labels)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # 160 MB were read.
    assert peak < 40e6


_REPORT = """
import sys
from benchmarks.turns import peak_mb
from orchestrator.cli.program import main
assert main(["report", sys.argv[1]]) == 0
print("peak", peak_mb())
"""


def peak_mb(run: Path) -> float:
    said = subprocess.run([sys.executable, "-c", _REPORT, str(run)], check=True, capture_output=True, text=True).stdout
    return float(said.split()[-1])


@pytest.mark.soak
def test_report_peak_memory_is_below_a_gigabyte_and_hardly_above_that_of_a_small_run(tmp_path):
    small, large = tmp_path / "small", tmp_path / "large"
    build_large_run(small, 4, 100, 500)
    # 1.2 GB of probabilities.
    build_large_run(large, 15, 1_000, 20_000)
    # Members' worth holds 256 MB at most.
    assert peak_mb(large) < min(1_000, peak_mb(small) + 550)
