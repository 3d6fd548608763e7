"""A worker that was stopped and given up wakes while the next attempt goes on: it changes nothing, and ends."""

import json
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from workers.data.store.preparation import prepare
from workers.errors import StorageError, Superseded
from workers.protocol import Numerics, StageResult, StageSpec
from workers.settings.dataset import DatasetSettings, Source
from workers.settings.training import (
    AugmentationSettings,
    KeptCheckpoint,
    ModelSettings,
    OptimizerSettings,
    Recipe,
    ScheduleSettings,
)
from workers.storage import atomic, checkpoint, layout
from workers.storage.fence import fence_of, raise_fence
from workers.training.stage import run_stage

SCRIPT = Path(__file__).with_name("fenced_stage.py")
GIVE_UP_S = 120.0
# Five updates an epoch.
SETTINGS = Recipe(
    model=ModelSettings(input_size=16, width=0.05, conv1_kernel=3, conv1_stride=1, conv1_padding=1, fc_units=16),
    optimizer=OptimizerSettings(lr=0.02, batch_size=300),
    schedule=ScheduleSettings(epochs=4, patience=1),
    augmentation=AugmentationSettings(reflect=False),
)
CASES = {
    # Where the first attempt stops, and at which update of the second it wakes: that is at step 6.
    "before resuming": 6,
    "update 7": 2,
    "before naming step-00000008": 2,
}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> StageSpec:
    return StageSpec(
        member="base1",
        stage="train",
        seed=11,
        recipe=SETTINGS,
        store=prepare(DatasetSettings(source=Source.digits, size=18), tmp_path_factory.mktemp("store")),
        stage_dir=tmp_path_factory.mktemp("undisturbed") / "base1" / "train",
        init_dir=None,
        numerics=Numerics(),
        checkpoint_updates=4,
        keep=KeptCheckpoint.last,
        stage_hash="h",
    )


@pytest.fixture(scope="module")
def undisturbed(spec: StageSpec) -> StageResult:
    return run_stage(spec, lambda: False)


@dataclass
class Zombie:
    """The first attempt, stopped."""

    process: "subprocess.Popen[str]"

    def wake(self) -> str:
        """Gives how its attempt ends: a word, or empty where it was killed in the midst of it."""
        psutil.Process(self.process.pid).resume()
        return self.process.communicate(timeout=GIVE_UP_S)[0].strip()


def _begin_attempt(spec: StageSpec, number: int) -> StageSpec:
    """As the driver does: the fence, then another step.txt."""
    begun = replace(spec, attempt=number, fence=f"train, attempt {number}")
    raise_fence(begun.stage_dir.parent, begun.fence)
    atomic.write_text(begun.stage_dir / "step.txt", "0")
    return begun


def _stopped(spec: StageSpec, where: str, fenced: str, folder: Path) -> Zombie:
    (folder / "spec").write_bytes(pickle.dumps(spec))
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder / "spec"), where, "6", fenced], stdout=subprocess.PIPE, text=True
    )
    give_up = time.monotonic() + GIVE_UP_S
    while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
        assert process.poll() is None, "it never stopped"
        assert time.monotonic() < give_up
        time.sleep(0.02)
    return Zombie(process)


def _course(stage_dir: Path) -> list[tuple[int, dict[str, float]]]:
    points = [json.loads(line) for line in (stage_dir / "metrics.jsonl").read_text().splitlines()]
    timing = {"images_per_second", "data_wait"}
    return [(p["step"], {k: v for k, v in p["metrics"].items() if k not in timing}) for p in points]


def _differences(both: "Both", whole: StageSpec, undisturbed: StageResult) -> list[str]:
    """What of the second attempt's stage is not as if there had been no other."""
    result, folder = both.result, both.spec.stage_dir
    found = []
    if result.checkpoint_sha256 != undisturbed.checkpoint_sha256:
        found.append("weights")
    if _course(folder) != _course(whole.stage_dir):
        found.append("metrics")
    if (folder / "step.txt").read_text().strip() != f"{undisturbed.num_updates:012d}":
        found.append("step.txt")
    if any(attempt != both.spec.attempt for step, attempt in both.seen if step > result.resumed_from):
        found.append("a checkpoint of the first attempt")
    if list(folder.parent.rglob(f"{atomic.TEMPORARY_PREFIX}*")):
        found.append("temporary names")
    return found


@dataclass(frozen=True)
class Both:
    """The second attempt and its result, how the first ended, and whose checkpoints were `seen`: (step, attempt)."""

    spec: StageSpec
    result: StageResult
    end: str
    seen: set[tuple[int, int]]


def _checkpoints(stage_dir: Path) -> set[tuple[int, int]]:
    found = set()
    for path in stage_dir.glob(f"checkpoints/step-*/{layout.MANIFEST}"):
        # The second attempt's own thread may prune it meanwhile.
        with suppress(FileNotFoundError):
            manifest = json.loads(path.read_text())
            found.add((manifest["step"], manifest["attempt"]))
    return found


def _both(spec: StageSpec, where: str, fenced: str, folder: Path) -> Both:
    first = _begin_attempt(replace(spec, stage_dir=folder / "base1" / "train"), 0)
    zombie = _stopped(first, where, fenced, folder)
    second, ends, made = _begin_attempt(first, 1), [], [0]
    seen: set[tuple[int, int]] = set()

    def should_stop() -> bool:
        made[0] += 1
        if made[0] == CASES[where]:
            ends.append(zombie.wake())
        seen.update(_checkpoints(second.stage_dir))
        return False

    try:
        result = run_stage(second, should_stop)
    finally:
        zombie.process.kill()
        zombie.process.wait()
    assert len(ends) == 1, "the first attempt was never woken"
    assert result.resumed_from < 8, "the first attempt went on before it stopped"
    return Both(second, result, ends[0], seen | _checkpoints(second.stage_dir))


@pytest.mark.parametrize("where", CASES)
def test_given_up_worker_that_wakes_changes_nothing_and_ends(
    spec: StageSpec, undisturbed: StageResult, tmp_path: Path, where: str
) -> None:
    both = _both(spec, where, "fenced", tmp_path)
    # The one that had looked at the fence finds nothing left under the name that it was to rename.
    assert both.end in (Superseded.__name__, *(["FileNotFoundError"] if "naming" in where else []))
    assert _differences(both, spec, undisturbed) == []


@pytest.mark.parametrize("where", ["before resuming", "update 7"])
def test_given_up_worker_without_the_fence_leaves_its_traces(
    spec: StageSpec, undisturbed: StageResult, tmp_path: Path, where: str
) -> None:
    both = _both(spec, where, "unfenced", tmp_path)
    assert both.end != Superseded.__name__
    assert _differences(both, spec, undisturbed) != []


def test_rename_after_the_look_at_the_fence_is_harmless_only_since_temporary_names_are_removed(
    spec: StageSpec, undisturbed: StageResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "remove_leftovers", lambda folder, check: None)
    both = _both(spec, "before naming step-00000008", "fenced", tmp_path)
    assert "a checkpoint of the first attempt" in _differences(both, spec, undisturbed)


def test_attempt_whose_mark_is_not_there_says_that_storage_is_not_shared(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="storage that all nodes share"):
        fence_of(tmp_path / "base1" / "train", "train, attempt 0").enter(wait_s=0)


def test_attempt_begins_once_a_late_cache_shows_its_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raise_fence(tmp_path / "base1", "train, attempt 0")
    looks = []

    def arrive_at_the_third_look(pause_s: float) -> None:
        looks.append(pause_s)
        if len(looks) == 3:
            raise_fence(tmp_path / "base1", "train, attempt 1")

    monkeypatch.setattr("workers.storage.fence.time.sleep", arrive_at_the_third_look)
    fence_of(tmp_path / "base1" / "train", "train, attempt 1").enter()
    assert len(looks) == 3
    with pytest.raises(Superseded):
        fence_of(tmp_path / "base1" / "train", "train, attempt 0").enter(wait_s=0)


@pytest.mark.parametrize(
    "take_over",
    [lambda member: raise_fence(member, "train, attempt 1"), lambda member: (member / layout.ATTEMPT).unlink()],
    ids=["newer attempt", "folder taken away"],
)
def test_fence_lets_its_own_attempt_through_and_none_that_was_given_up(
    tmp_path: Path, take_over: Callable[[Path], None]
) -> None:
    fence = fence_of(tmp_path / "base1" / "train", "train, attempt 0")
    raise_fence(tmp_path / "base1", "train, attempt 0")
    fence.check()
    take_over(tmp_path / "base1")
    with pytest.raises(Superseded):
        fence.check()
