"""A worker that was stopped and given up wakes while the next attempt is at work: it changes nothing, and ends."""

import json
import pickle
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
from tiny_stage import TINY, course, make_spec, make_store, never

from workers.errors import StorageError, Superseded
from workers.protocol import StageResult, StageSpec
from workers.storage import atomic
from workers.storage.fence import fence_of, raise_fence
from workers.training.stage import run_stage

SCRIPT = Path(__file__).with_name("fenced_stage.py")
GIVE_UP_S = 120.0
CASES = {
    # Where the first attempt stops, and at which update of the second it wakes: that is at step 6.
    "before resuming": 6,
    "update 7": 2,
    "before naming step-00000008": 2,
}


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    """Four updates an epoch, twenty in all: a woken worker that nothing ends makes six more, and is not done."""
    optimizer, schedule = replace(TINY.optimizer, batch_size=300), replace(TINY.schedule, epochs=5)
    recipe = replace(TINY, optimizer=optimizer, schedule=schedule)
    folder = tmp_path_factory.mktemp("undisturbed") / "base1" / "train"
    return make_spec(make_store(tmp_path_factory.mktemp("store")), folder, recipe, checkpoint_updates=4)


@pytest.fixture(scope="module")
def undisturbed(spec):
    return run_stage(spec, never)


def _begin_attempt(spec, number):
    """As the driver does: the fence, then another step.txt."""
    begun = replace(spec, attempt=number, fence=f"train, attempt {number}")
    raise_fence(begun.stage_dir.parent, begun.fence)
    atomic.write_text(begun.stage_dir / "step.txt", "0")
    return begun


def _stopped(spec, where, folder):
    """The first attempt, stopped."""
    (folder / "spec").write_bytes(pickle.dumps(spec))
    words = [sys.executable, str(SCRIPT), str(folder / "spec"), where, "6"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    give_up = time.monotonic() + GIVE_UP_S
    while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
        assert process.poll() is None, "it never stopped"
        assert time.monotonic() < give_up
        time.sleep(0.02)
    return process


@dataclass(frozen=True)
class Both:
    """The second attempt and its result, how the first ended, and whose checkpoints were `seen`: (step, attempt)."""

    spec: StageSpec
    result: StageResult
    end: str
    seen: set[tuple[int, int]]

    def differences(self, whole, undisturbed):
        """What of the second attempt's stage is not as if there had been no other."""
        folder = self.spec.stage_dir
        late = [attempt for step, attempt in self.seen if step > self.result.resumed_from]
        wrong = {
            "weights": self.result.checkpoint_sha256 != undisturbed.checkpoint_sha256,
            "metrics": course(folder) != course(whole.stage_dir),
            "step.txt": (folder / "step.txt").read_text().strip() != f"{undisturbed.num_updates:012d}",
            "a checkpoint of the first attempt": any(attempt != self.spec.attempt for attempt in late),
            "temporary names": bool(list(folder.parent.rglob(f"{atomic.TEMPORARY_PREFIX}*"))),
        }
        return [name for name, is_wrong in wrong.items() if is_wrong]


def _checkpoints(stage_dir):
    found = set()
    for path in stage_dir.glob("checkpoints/step-*/MANIFEST.json"):
        # The second attempt's own thread may prune it meanwhile.
        with suppress(FileNotFoundError):
            manifest = json.loads(path.read_text())
            found.add((manifest["step"], manifest["attempt"]))
    return found


def _both(spec, where, folder):
    first = _begin_attempt(replace(spec, stage_dir=folder / "base1" / "train"), 0)
    zombie = _stopped(first, where, folder)
    second, ends, made = _begin_attempt(first, 1), [], [0]
    seen: set[tuple[int, int]] = set()

    def should_stop():
        made[0] += 1
        if made[0] == CASES[where]:
            psutil.Process(zombie.pid).resume()
            # A word on how its attempt ends; empty where it was killed in the midst of it.
            ends.append(zombie.communicate(timeout=GIVE_UP_S)[0].strip())
        seen.update(_checkpoints(second.stage_dir))
        return False

    try:
        result = run_stage(second, should_stop)
    finally:
        zombie.kill()
        zombie.wait()
    assert len(ends) == 1, "the first attempt was never woken"
    assert result.resumed_from < 8, "the first attempt was at work before it stopped"
    return Both(second, result, ends[0], seen | _checkpoints(second.stage_dir))


@pytest.mark.slow
@pytest.mark.parametrize("where", [pytest.param(w, marks=pytest.mark.soak if "update" in w else ()) for w in CASES])
def test_woken_worker_changes_nothing(spec, undisturbed, tmp_path, where):
    both = _both(spec, where, tmp_path)
    # The one that had looked at the fence finds nothing left under the name that it was to rename.
    assert both.end in (Superseded.__name__, *(["FileNotFoundError"] if "naming" in where else []))
    assert both.differences(spec, undisturbed) == []


def test_attempt_whose_mark_is_not_there_says_that_storage_is_not_shared(tmp_path):
    with pytest.raises(StorageError, match="storage that all nodes share"):
        fence_of(tmp_path / "base1" / "train", "train, attempt 0").enter(wait_s=0)


def test_attempt_begins_once_a_late_cache_shows_its_mark(tmp_path, monkeypatch):
    raise_fence(tmp_path / "base1", "train, attempt 0")
    looks = []

    def arrive_at_the_third_look(pause_s):
        looks.append(pause_s)
        if len(looks) == 3:
            raise_fence(tmp_path / "base1", "train, attempt 1")

    monkeypatch.setattr("workers.storage.fence.time.sleep", arrive_at_the_third_look)
    fence_of(tmp_path / "base1" / "train", "train, attempt 1").enter()
    assert len(looks) == 3
    with pytest.raises(Superseded):
        fence_of(tmp_path / "base1" / "train", "train, attempt 0").enter(wait_s=0)


@pytest.mark.parametrize(
    "take_over", [lambda member: raise_fence(member, "train, attempt 1"), shutil.rmtree], ids=["newer", "taken away"]
)
def test_fence_lets_its_own_attempt_through_alone(tmp_path, take_over):
    fence = fence_of(tmp_path / "base1" / "train", "train, attempt 0")
    raise_fence(tmp_path / "base1", "train, attempt 0")
    fence.check()
    take_over(tmp_path / "base1")
    with pytest.raises(Superseded):
        fence.check()
