"""The saver copies in the training thread and writes in another: what is committed, when, and what of its errors."""

import errno
import itertools
import logging
import shutil
import threading
from concurrent.futures import Future
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from stored import read_checkpoint
from torch import nn

from workers.errors import Diverged, Stopped, StorageError
from workers.protocol import StageSpec
from workers.storage import Checkpoint, checkpoint as protocol, layout, newest_checkpoint
from workers.training import read_step, run_stage, saver as saver_module
from workers.training.loop import TrainState
from workers.training.metrics import MetricsLog, StepMark
from workers.training.saver import Saver, Snapshot

INTERVAL = 4
GIVE_UP_S = 60.0


class Disk:
    """Stands in for `write_checkpoint`: notes what it is asked, waits while `open` is clear, fails on demand."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Semaphore(0)
        self.fails_at: dict[int, OSError] = {}
        self.asked: list[int] = []
        self.committed: list[int] = []
        self.threads: set[int] = set()

    def write(self, folder: Path, step: int, *rest: Any) -> Checkpoint:
        self.asked.append(step)
        self.threads.add(threading.get_ident())
        self.entered.release()
        assert self.open.wait(GIVE_UP_S)
        if step in self.fails_at:
            with protocol.atomic_folder(folder / layout.checkpoint(step)) as temporary:
                (temporary / layout.MODEL).write_bytes(b"half")
                raise self.fails_at[step]
        checkpoint = protocol.write_checkpoint(folder, step, *rest)
        self.committed.append(step)
        return checkpoint


@pytest.fixture
def disk(monkeypatch):
    disk = Disk()
    monkeypatch.setattr(saver_module, "write_checkpoint", disk.write)
    yield disk
    assert not writers(), "a writing thread was left behind"


def writers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("checkpoint")]


class Training:
    """A one-layer net whose weights equal the number of updates made, and the saver after each of them."""

    def __init__(self, spec: StageSpec, resumed: Checkpoint | None = None, interval: int = INTERVAL) -> None:
        self.spec = replace(spec, checkpoint_updates=interval)
        self.model = nn.Linear(3, 2)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0, momentum=0.9)
        self.stop_at: int | None = None
        self.step = 0 if resumed is None else resumed.step
        self._stack = ExitStack()
        metrics = self._stack.enter_context(closing(MetricsLog(spec.stage_dir / "metrics.jsonl")))
        mark = self._stack.enter_context(closing(StepMark(spec.stage_dir / "step.txt")))
        snapshot = Snapshot(self.model, self.optimizer)
        self.saver = self._stack.enter_context(
            Saver(self.spec, "digest", snapshot, metrics, mark, self._should_stop, resumed)
        )

    def __enter__(self) -> "Training":
        return self

    def __exit__(self, *failure: Any) -> None:
        self._stack.__exit__(*failure)

    @property
    def folder(self) -> Path:
        return self.spec.stage_dir / "checkpoints"

    def update(self, times: int = 1, best_step: int | None = None) -> None:
        for _ in range(times):
            self.step += 1
            for parameter in self.model.parameters():
                parameter.data.fill_(self.step)
                self.optimizer.state[parameter]["momentum_buffer"] = torch.full_like(parameter, -self.step)
            if self.saver.is_due(self.step) or best_step == self.step:
                self.saver.after_update(TrainState(step=self.step, best_step=best_step), best_step == self.step)

    def finish(self) -> Checkpoint:
        return self.saver.finish(TrainState(step=self.step))

    def _should_stop(self) -> bool:
        return self.step == self.stop_at


def on_disk(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in folder.iterdir())


def assert_holds_its_own_step(folder: Path, step: int) -> None:
    contents = read_checkpoint(folder / layout.checkpoint(step))
    assert all((value == step).all() for value in contents.model.values())
    assert all((value == -step).all() for value in contents.optimizer.values())
    assert set(contents.model) == set(contents.optimizer) == {"weight", "bias"}
    assert contents.state["train"]["step"] == step


# Of tiny_spec, which is a value, each example takes only a copy with a folder of its own.
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(interval=st.integers(1, 6), updates=st.integers(1, 20), bests=st.sets(st.integers(1, 20), max_size=4))
def test_checkpoints_are_committed_in_order_at_the_steps_that_are_due(
    tiny_spec, tmp_path_factory, interval, updates, bests
):
    disk = Disk()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saver_module, "write_checkpoint", disk.write)
        spec = replace(tiny_spec, stage_dir=tmp_path_factory.mktemp("stage"))
        with Training(spec, interval=interval) as training:
            best = None
            for step in range(1, updates + 1):
                best = step if step in bests else best
                training.update(best_step=best)
            training.saver.finish(TrainState(step=updates, best_step=best))
    due, last = [], 0
    for step in range(1, updates + 1):
        if step in bests or step - last >= interval or step == updates:
            due.append(step)
            last = step
    assert disk.committed == due
    assert threading.get_ident() not in disk.threads
    assert on_disk(training.folder) == sorted({*due[-2:], *([best] if best is not None else [])})
    for step in on_disk(training.folder):
        assert_holds_its_own_step(training.folder, step)


def test_training_continues_while_a_checkpoint_of_its_own_step_is_written(tiny_spec, disk):
    with Training(tiny_spec) as training:
        disk.open.clear()
        for step in range(1, 2 * INTERVAL):
            training.update()
            assert int((tiny_spec.stage_dir / "step.txt").read_text()) == step
        assert disk.committed == []
        disk.open.set()
        training.finish()
    assert disk.committed == [INTERVAL, 2 * INTERVAL - 1]
    for step in disk.committed:
        assert_holds_its_own_step(training.folder, step)


class Awaited:
    """A checkpoint in flight that is not done, and lets the disk go on once somebody waits for it."""

    def __init__(self, disk: Disk, future: Future[Checkpoint]) -> None:
        self._disk, self._future = disk, future

    def done(self) -> bool:
        return False

    def result(self) -> Checkpoint:
        assert self._disk.committed == []
        self._disk.open.set()
        return self._future.result(GIVE_UP_S)


def test_second_save_waits_for_the_commit_of_the_first(tiny_spec, disk):
    with Training(tiny_spec) as training:
        disk.open.clear()
        training.update(INTERVAL)
        training.saver._in_flight = Awaited(disk, training.saver._in_flight)
        training.update(INTERVAL - 1)
        assert disk.committed == []
        training.update()
        assert disk.committed[0] == INTERVAL
        training.finish()
    assert disk.asked == disk.committed == [INTERVAL, 2 * INTERVAL]
    for step in disk.committed:
        assert_holds_its_own_step(training.folder, step)


def test_snapshot_is_contiguous_and_reuses_its_memory():
    model = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
    snapshot = Snapshot(model, torch.optim.SGD(model.parameters(), lr=0.1))
    snapshot.touch()
    taken = snapshot.take()
    assert np.shares_memory(taken.model["weight"], snapshot.take().model["weight"])
    assert taken.model["weight"].flags.c_contiguous
    assert np.array_equal(taken.model["weight"], model.weight.detach().numpy())
    assert taken.optimizer == {}, "no momentum before the first update"


@pytest.mark.parametrize(("stop_at", "committed"), [(6, [INTERVAL, 6]), (INTERVAL, [INTERVAL])])
def test_stop_request_commits_all_first(tiny_spec, disk, stop_at, committed):
    with Training(tiny_spec) as training, pytest.raises(Stopped, match=f"after update {stop_at}"):
        disk.open.clear()
        training.stop_at = stop_at
        training.update(stop_at - 1)
        threading.Timer(0, disk.open.set).start()
        training.update()
    assert disk.asked == disk.committed == on_disk(training.folder) == committed
    assert_holds_its_own_step(training.folder, stop_at)


def test_finish_of_a_state_just_resumed_writes_nothing_and_prunes(tiny_spec, disk):
    folder = tiny_spec.stage_dir / "checkpoints"
    for step in (1, 2, 3):
        last = protocol.write_checkpoint(folder, step, {}, {}, {}, {"stage_hash": "s"})
    with Training(tiny_spec, resumed=last) as training:
        assert training.finish() == last
    assert disk.asked == []
    assert on_disk(folder) == [2, 3]


@pytest.mark.parametrize(("number", "raised"), [(errno.ENOSPC, StorageError), (errno.EBUSY, OSError)])
@pytest.mark.parametrize("told_at", ["next update", "end", "stop"])
def test_writers_error_surfaces_in_the_training_thread_with_its_type(tiny_spec, disk, number, raised, told_at):
    failing = 6 if told_at == "stop" else 2 * INTERVAL
    disk.fails_at = {failing: OSError(number, "as asked")}
    with Training(tiny_spec) as training:
        training.update(failing - 1)
        if told_at == "stop":
            training.stop_at = failing
        else:
            training.update()
            assert training.saver._in_flight is not None
            training.saver._in_flight.exception(GIVE_UP_S)
        with pytest.raises(raised, match="as asked") as caught:
            training.finish() if told_at == "end" else training.update()
        assert type(caught.value) is raised
    assert on_disk(training.folder) == [INTERVAL], "the one before stays, and no leftover with it"


@pytest.mark.parametrize(("fails_at", "committed"), [({}, [INTERVAL]), ({INTERVAL: OSError(errno.ENOSPC, "full")}, [])])
def test_stage_s_failure_outranks_the_writer_s_and_waits_for_it(tiny_spec, disk, caplog, fails_at, committed):
    disk.fails_at = fails_at
    with caplog.at_level(logging.WARNING), pytest.raises(Diverged), Training(tiny_spec) as training:
        disk.open.clear()
        training.update(INTERVAL)
        threading.Timer(0, disk.open.set).start()
        raise Diverged("as asked")
    assert disk.committed == on_disk(training.folder) == committed
    assert ("full" in caplog.text) is bool(fails_at)


def test_step_mark_tells_the_last_step_set_and_a_full_disk(tmp_path):
    with closing(StepMark(tmp_path / "step.txt")) as mark:
        for step in (9, 123456, 7):
            mark.set(step)
    assert read_step(tmp_path / "step.txt") == 7
    with closing(StepMark(Path("/dev/full"))) as mark, pytest.raises(StorageError, match="/dev/full"):
        mark.set(1)


def test_metrics_are_synced_before_checkpoints(tiny_spec, disk, monkeypatch):
    course: list[str] = []
    monkeypatch.setattr(MetricsLog, "sync", lambda _: course.append("metrics"))
    monkeypatch.setattr(saver_module, "prune", lambda *_, **__: course.append("prune"))
    plain = disk.write

    def write(*arguments):
        course.append("checkpoint")
        return plain(*arguments)

    monkeypatch.setattr(saver_module, "write_checkpoint", write)
    with Training(tiny_spec) as training:
        training.update(INTERVAL)
    assert course == ["metrics", "checkpoint", "prune"]


def test_kill_before_commit_resumes_from_the_checkpoint_before(tiny_spec, disk, tmp_path):
    recipe = replace(tiny_spec.recipe, schedule=replace(tiny_spec.recipe.schedule, epochs=3))
    spec = replace(tiny_spec, checkpoint_updates=3, recipe=recipe)
    undisturbed = run_stage(replace(spec, stage_dir=tmp_path / "undisturbed"), lambda: False)
    assert undisturbed.num_updates > 7
    disk.entered, disk.asked, at_kill, made = threading.Semaphore(0), [], tmp_path / "at_kill", itertools.count(1)

    def kill_in_flight():
        """After update 7 the second checkpoint is under way; what is on disk then is what a kill leaves."""
        update = next(made)
        if update == 5:
            assert disk.asked == [3]
            disk.open.clear()
        if update == 7:
            for _ in disk.asked, "the second":
                assert disk.entered.acquire(timeout=GIVE_UP_S)
            shutil.copytree(spec.stage_dir, at_kill)
            disk.open.set()
        return update == 7

    with pytest.raises(Stopped):
        run_stage(spec, kill_in_flight)
    newest = newest_checkpoint(at_kill / "checkpoints")
    assert newest is not None
    assert (newest.checkpoint.step, int((at_kill / "step.txt").read_text())) == (3, 7)
    result = run_stage(replace(spec, stage_dir=at_kill), lambda: False)
    assert result.resumed_from == 3
    assert result.checkpoint_sha256 == undisturbed.checkpoint_sha256
