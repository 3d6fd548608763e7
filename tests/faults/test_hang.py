"""A member that lives and makes no progress: a process that is stopped, and one that holds the interpreter, on Ray."""

import ctypes
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from book_in_memory import book_in_memory
from fake_stages import FakeStages, plan_of
from local_actors import LocalActors
from no_tracker import NoTracker
from tiny_stage import TINY, make_spec, make_store, never

from orchestrator.cluster.actor import Duties, worker_duties
from orchestrator.cluster.ray_backend import RayCluster, open_cluster
from orchestrator.config.schema import ClusterConfig
from orchestrator.execution import driver as driver_module
from orchestrator.execution.driver import Driver
from orchestrator.execution.jobs import Work
from orchestrator.plan.model import StageRef
from orchestrator.run.ledger import AttemptEnd, Budgets, Ledger, read_ledger
from orchestrator.run.paths import RunPaths
from workers.data.store.store import open_store
from workers.inference import prediction as predict_module
from workers.protocol import Numerics, PredictSpec
from workers.settings.training import Crops, KeptCheckpoint
from workers.storage import atomic
from workers.storage.finished import read_finished
from workers.training.metrics import StepMark
from workers.training.stage import run_stage

pytestmark = pytest.mark.timeout(300)
GIVE_UP_S = 60.0
HANGS_AT = 5
HOW = ("stopped", "holding")


class SkippingClock:
    """Stands still until `is_hung`, then leaps at every look: no test waits for a deadline, or meets it by chance."""

    def __init__(self, is_hung):
        self._is_hung, self._now_s = is_hung, 0.0

    def __call__(self):
        if self._is_hung():
            self._now_s += 25.0
        return self._now_s


def work_of(root, plan, store, digest, splits):
    # No failure may be spent, and one loss.
    return Work(
        paths=RunPaths(root),
        plan=plan,
        stores={"target": store},
        target_digest=digest,
        splits=splits,
        numerics=Numerics(),
        keep=KeptCheckpoint.last,
        checkpoint_updates=1,
        budgets=Budgets(max_losses=1, max_failures=0),
        crops=Crops.centre,
        progress_timeout_s=60.0,
    )


def hanging_duties(pids):
    """Nested, so that Ray sends it by value; each member hangs once, at the same update, and says who it is."""

    def make():
        real = worker_duties()

        def run_stage(spec, should_stop):
            calls = iter(range(1, 10_000))

            def hanging():
                mine = pids / spec.member
                if next(calls) == HANGS_AT and not mine.exists():
                    mine.with_suffix(".part").write_text(str(os.getpid()))
                    mine.with_suffix(".part").rename(mine)
                    if spec.member == "stopped":
                        os.kill(os.getpid(), signal.SIGSTOP)
                    else:
                        ctypes.PyDLL(None).sleep(3600)
                return should_stop()

            return real.run_stage(spec, hanging)

        return Duties(run_stage, real.predict, real.warm_up)

    return make


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return make_spec(make_store(tmp_path_factory.mktemp("store")), tmp_path_factory.mktemp("undisturbed"))


def plan_like(spec, members, num_updates):
    plan = plan_of({member: {"train": None} for member in members})
    stages = [
        replace(stage, recipe=replace(TINY, dataset="target"), seed=spec.seed, num_updates=num_updates)
        for stage in plan.stages
    ]
    return replace(plan, stages=tuple(stages))


def is_alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.soak
def test_hung_processes_are_killed_and_end_in_the_same_bits(spec, tmp_path):
    undisturbed = run_stage(spec, never)
    pids = tmp_path / "pids"
    pids.mkdir()
    store = spec.store
    plan = plan_like(spec, HOW, undisturbed.num_updates)
    work = work_of(tmp_path / "run", plan, store, open_store(store).digest, ("val",))
    ledger = Ledger(work.paths.ledger)

    def is_hung():
        """Whether all that is at work hangs: no time passes for a member that may be starting."""
        begun = {name: entry for name, entry in ledger.contents.stages.items() if entry.attempts}
        at_work = {name: entry for name, entry in begun.items() if entry.attempts[-1].outcome is None}
        hang = [len(entry.attempts) == 1 and (pids / name.split("/")[0]).exists() for name, entry in at_work.items()]
        return bool(hang) and all(hang)

    with open_cluster(ClusterConfig()) as opened:
        cluster = RayCluster(opened.num_slots, 1, 0, hanging_duties(pids))
        driver = Driver(work, ledger, NoTracker(), book_in_memory(), monotonic=SkippingClock(is_hung))
        assert not driver.take_stock()
        assert driver.run(cluster, never, lambda: None)
        hung = {how: int((pids / how).read_text()) for how in HOW}
        give_up = time.monotonic() + GIVE_UP_S
        while any(map(is_alive, hung.values())):
            assert time.monotonic() < give_up, f"still there: {[how for how, pid in hung.items() if is_alive(pid)]}"
            time.sleep(0.1)
        cluster.close()
    for how in HOW:
        ref = StageRef(how, "train")
        attempts = read_ledger(work.paths.ledger).stages[str(ref)].attempts
        assert [attempt.outcome for attempt in attempts] == [AttemptEnd.lost, AttemptEnd.done]
        assert "Hung: no progress for" in attempts[0].error
        assert "cluster.progress_timeout_s" in attempts[0].error
        # What it was hung at is redone from its checkpoint, and no more.
        assert 0 < attempts[1].resumed_from <= attempts[0].last_step == HANGS_AT
        finished = read_finished(work.paths.stage(ref))
        assert finished.checkpoint_sha256 == undisturbed.checkpoint_sha256
    assert not list(work.paths.root.rglob(".tmp-*"))


def test_predictions_that_hang_are_given_up_and_made_again(tmp_path, monkeypatch):
    """Of stages that train nothing, in threads; the first attempt hangs."""
    monkeypatch.setattr(driver_module, "_POLL_S", 0.01)
    fakes = FakeStages(waiting=frozenset({"base0/predictions"}))
    atomic.write_text(tmp_path / "store" / "digest", "d")
    plan = plan_of({"base0": {"train": None}})
    work = work_of(tmp_path / "run", plan, tmp_path / "store", "d", ("val", "test"))
    ledger = Ledger(work.paths.ledger)

    def outcomes():
        predictions = ledger.contents.predictions
        return [attempt.outcome for attempt in predictions["base0"].attempts] if predictions else []

    def show():
        if outcomes() and outcomes()[0] is not None:
            fakes.waiting = frozenset()

    driver = Driver(work, ledger, NoTracker(), book_in_memory(), monotonic=SkippingClock(lambda: outcomes() == [None]))
    driver.take_stock()
    driver.run(LocalActors(1, fakes.duties), never, show)
    assert outcomes() == [AttemptEnd.lost, AttemptEnd.done]


def test_evaluation_saving_and_prediction_beat(spec, tmp_path, monkeypatch):
    beats: list[int] = []
    real = StepMark.beat

    def beat(mark):
        beats.append(1)
        real(mark)

    monkeypatch.setattr(StepMark, "beat", beat)
    one_epoch = replace(TINY, schedule=replace(TINY.schedule, epochs=1))
    own = replace(spec, stage_dir=tmp_path / "a" / "train", recipe=one_epoch)
    run_stage(own, never)
    # Dev and val are a batch or more each, and a checkpoint of three files has a piece or more of each.
    assert len(beats) >= 2 + 2 * 3
    blocks: list[Path] = []
    monkeypatch.setattr(predict_module, "beat", blocks.append)
    monkeypatch.setattr(predict_module, "load_member", lambda *_: None)
    monkeypatch.setattr(predict_module, "mean_over_crops", _stop_there)
    with pytest.raises(InterruptedError):
        predict_module.predict(
            PredictSpec("a", own.stage_dir, own.store, tmp_path / "p", ("val",), one_epoch, Numerics()), never
        )
    assert blocks == [own.stage_dir]


def _stop_there(*_):
    raise InterruptedError
