"""metrics.jsonl and step.txt on storage that fails."""

from pathlib import Path

import pytest

from workers.errors import StorageError
from workers.training import read_step
from workers.training.metrics import StepMark


def test_step_mark_tells_the_last_step_set(tmp_path: Path) -> None:
    mark = StepMark(tmp_path / "step.txt")
    for step in (9, 123456, 7):
        mark.set(step)
    mark.close()
    assert read_step(tmp_path / "step.txt") == 7


def test_step_mark_on_full_storage_is_a_storage_error() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here to play a full disk")
    mark = StepMark(full)
    try:
        with pytest.raises(StorageError, match="/dev/full"):
            mark.set(1)
    finally:
        mark.close()
