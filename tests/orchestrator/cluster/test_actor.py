"""The actor's boundary: whatever happens inside comes out as a value, and one worker at a time writes a member."""

import fcntl
import logging
import os
import pickle
import re
import threading
from dataclasses import replace

import pytest
from fake_stages import make_spec

from orchestrator.cluster import preflight
from orchestrator.cluster.actor import Duties, MemberActor
from orchestrator.cluster.interface import Failure, Halted, Outcome, Trained, Unfit, Where
from workers.errors import CheckFailed, DataError, Diverged, Stopped, StorageError
from workers.numerics import Capabilities, code_digest
from workers.protocol import Numerics, StageResult

RESULT = StageResult(1, 0, "step-00000001", "sha", 0.1, 0.2, False)


def _spec(root):
    return make_spec(root / "a" / "train")


def _actor(root, work):
    def predict(spec, should_stop):
        raise AssertionError("not asked for")

    return MemberActor(lambda: Duties(lambda spec, should_stop: work(should_stop), predict))


def _outcome(root, error):
    def work(should_stop):
        raise error

    return _actor(root, work).run_stage(_spec(root))


class Unpicklable(RuntimeError):
    """Cannot travel between processes: it holds a lock."""

    def __init__(self):
        super().__init__("holds a lock")
        self.lock = threading.Lock()


def test_success_comes_out_as_the_stages_result(tmp_path):
    assert _actor(tmp_path, lambda should_stop: RESULT).run_stage(_spec(tmp_path)) == Trained(RESULT)


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (Unpicklable(), True),
        (OSError(5, "Input/output error"), True),
        (MemoryError(), False),
        (Diverged("loss nan"), False),
        (DataError("no images"), False),
        (StorageError("full"), False),
        (CheckFailed("not finite"), False),
    ],
)
def test_error_comes_out_as_a_picklable_value_that_says_whether_to_retry(tmp_path, error, retryable):
    outcome = _outcome(tmp_path, error)
    assert isinstance(outcome, Failure)
    assert pickle.loads(pickle.dumps(outcome)) == outcome  # noqa: S301 – our own bytes
    assert (outcome.kind, outcome.retryable) == (type(error).__name__, retryable)
    assert outcome.message
    assert "Traceback" in outcome.traceback


def test_stop_reaches_a_running_stage_from_another_thread(tmp_path):
    running = threading.Event()

    def work(should_stop):
        running.set()
        while not should_stop():
            pass
        raise Stopped("a/train: stopped after update 7")

    actor = _actor(tmp_path, work)
    found: list[Outcome] = []
    thread = threading.Thread(target=lambda: found.append(actor.run_stage(_spec(tmp_path))))
    thread.start()
    assert running.wait(60)
    actor.stop()
    thread.join(60)
    assert found == [Halted("a/train: stopped after update 7")]


def test_worker_that_outlives_its_driver_is_waited_for(tmp_path):
    held = []

    def work(should_stop):
        with (tmp_path / "a" / ".lock").open("rb") as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(True)
        return RESULT

    assert isinstance(_actor(tmp_path, work).run_stage(_spec(tmp_path)), Trained)
    assert held == [True]
    with (tmp_path / "a" / ".lock").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_why_a_stage_failed_is_in_its_log_file_with_the_traceback_and_a_stop_is_not(tmp_path):
    log = tmp_path / "a" / "train" / "log.txt"
    assert isinstance(_outcome(tmp_path, Stopped("stopped after update 7")), Halted)
    assert "ERROR" not in log.read_text()
    assert isinstance(_outcome(tmp_path, RuntimeError("a bolt is loose")), Failure)
    assert "ERROR workers: a bolt is loose" in log.read_text()
    assert "Traceback" in log.read_text() and "RuntimeError: a bolt is loose" in log.read_text()


class NeverLoaded:
    """Duties that must not be asked for: they would import what trains."""

    def __call__(self):
        raise AssertionError("loaded")


@pytest.mark.parametrize("call", ["run_stage", "warm_up"])
def test_actor_of_other_code_loads_nothing_and_refuses_in_one_line(tmp_path, call):
    spec = replace(_spec(tmp_path), code="0" * 64)
    actor = MemberActor(NeverLoaded(), lambda: Where("w2", "10.0.0.2", 7, "CPU", "node 2"))
    if call == "warm_up":
        assert actor.warm_up(1, "0" * 64) is None
        return
    outcome = actor.run_stage(spec)
    assert isinstance(outcome, Unfit) and (outcome.node_id, outcome.storage) == ("node 2", False)
    digests = rf"digest {code_digest()[:12]}\) is not the launch's \(000000000000\): install"
    assert re.search(digests, outcome.reason) and "\n" not in outcome.reason
    assert not spec.stage_dir.exists(), "it wrote something"


def test_warming_up_fails_in_silence_since_the_stage_meets_the_same_error(tmp_path):
    def broken():
        raise OSError("a library is damaged")

    actor = MemberActor(broken)
    assert actor.warm_up(1) is None
    outcome = actor.run_stage(_spec(tmp_path))
    assert isinstance(outcome, Failure) and outcome.message == "a library is damaged"


def test_actor_of_the_launch_s_code_trains_and_log_txt_says_where(tmp_path):
    spec = replace(_spec(tmp_path), code=code_digest(), store=tmp_path)
    assert _actor(tmp_path, lambda should_stop: RESULT).run_stage(spec) == Trained(RESULT)
    assert f"pid {os.getpid()}, CPU" in (spec.stage_dir / "log.txt").read_text()


@pytest.mark.parametrize(("key", "storage"), [("store", True), ("kernels", False)])
def test_actor_without_store_or_kernels_refuses(tmp_path, monkeypatch, key, storage):
    spec = replace(_spec(tmp_path), code=code_digest(), store=tmp_path / "absent")
    if key == "kernels":
        monkeypatch.setattr(preflight, "capabilities", lambda: Capabilities(bf16=True, compiled_kernels=False))
        spec = replace(spec, numerics=Numerics(kernels="compiled"))
    outcome = MemberActor(NeverLoaded()).run_stage(spec)
    assert isinstance(outcome, Unfit) and outcome.storage is storage and key in outcome.reason


def test_what_a_stage_logs_is_in_its_log_file(tmp_path):
    def work(should_stop):
        logging.getLogger("workers.training.stage").info("from update %d", 7)
        return RESULT

    _actor(tmp_path, work).run_stage(_spec(tmp_path))
    assert "from update 7" in (tmp_path / "a" / "train" / "log.txt").read_text()
