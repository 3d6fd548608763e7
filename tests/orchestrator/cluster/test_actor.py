"""The actor's boundary: whatever happens inside comes out as a value, and one worker at a time writes a member."""

import fcntl
import logging
import pickle
import threading

import pytest
from fake_stages import make_spec

from orchestrator.cluster.actor import Duties, MemberActor
from orchestrator.cluster.interface import Failure, Halted, Outcome, Trained
from workers.errors import CheckFailed, DataError, Diverged, Stopped, StorageError
from workers.protocol import StageResult

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
    assert log.read_text() == ""
    assert isinstance(_outcome(tmp_path, RuntimeError("a bolt is loose")), Failure)
    assert "ERROR workers: a bolt is loose" in log.read_text()
    assert "Traceback" in log.read_text() and "RuntimeError: a bolt is loose" in log.read_text()


def test_what_a_stage_logs_is_in_its_log_file(tmp_path):
    def work(should_stop):
        logging.getLogger("workers.training.stage").info("from update %d", 7)
        return RESULT

    _actor(tmp_path, work).run_stage(_spec(tmp_path))
    assert "from update 7" in (tmp_path / "a" / "train" / "log.txt").read_text()
