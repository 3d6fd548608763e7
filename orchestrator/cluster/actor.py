"""Runs stages and predictions inside an actor, and encodes how they ended.

Only plain values leave an actor: errors are encoded by type and text. An exception that cannot be unpickled, or that
needs a library the driver has not loaded, therefore cannot crash the driver.
"""

import logging
import os
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from filelock import FileLock, Timeout

from orchestrator.cluster.interface import Failure, Halted, Outcome, Predicted, Trained, Where
from orchestrator.cluster.preflight import misfit_here
from workers.errors import CheckFailed, ConfigError, DataError, Diverged, Stopped, StorageError, Superseded
from workers.numerics import code_digest, memory_returned
from workers.protocol import Meeting, PredictSpec, SplitPredictions, StageResult, StageSpec
from workers.storage import beat, hold, layout, require_held, storage_errors

# Texts of RuntimeErrors that GPU drivers and libraries raise themselves, without torch's allocator.
_ACCELERATOR_WORDS = (
    *("CUDA error: out of memory", "HIP error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED"),
    *("CUDNN_STATUS_ALLOC_FAILED", "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
)
_HOST_WORDS = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")
_ON_ACCELERATOR = (
    "the accelerator's memory is too small for this member: set optimizer.micro_batch, lower optimizer.batch_size, "
    "give it more of a GPU (cluster.gpus_per_member), or set precision=bf16"
)
_ON_HOST = (
    "this machine's memory is too small for the running members: set optimizer.micro_batch, lower "
    "optimizer.batch_size, or run fewer members at once (more cluster.cpus_per_member)"
)


def advice(error: Exception) -> str:
    """Returns what to change if `error` says that memory ran out; "" for any other error."""
    text = str(error) if isinstance(error, RuntimeError) else ""
    # Class names, since the orchestrator does not load torch. torch raises OutOfMemoryError for any accelerator.
    for kind, texts, remedy in (
        ("OutOfMemoryError", _ACCELERATOR_WORDS, _ON_ACCELERATOR),
        ("MemoryError", _HOST_WORDS, _ON_HOST),
    ):
        if type(error).__name__ == kind or any(words in text for words in texts):
            return remedy
    return ""


# The guard or Ray ends the workers of a killed driver within about a second. A stopped worker (SIGSTOP), or one on an
# unreachable node, may live forever: the fence keeps it from writing, and the next one does not wait for it.
_PREDECESSOR_GONE_S = 10.0
_HOLD_PAUSE_S = 0.05
# torch's message about memory is half a page; log.txt has all of it.
_LONGEST_SAID = 160
# Where actors that are in no cluster meet.
_LOOPBACK = "127.0.0.1"
_NEVER_RETRIED = (Diverged, ConfigError, DataError, StorageError, CheckFailed)
# Not this module's name: log.txt holds the records of the loggers below `workers`.
_log = logging.getLogger("workers")


@dataclass(frozen=True)
class Duties:
    """The functions an actor runs; tests pass their own. Each polls the given function, which returns true to stop it.

    Making them loads what all need; `warm_up` does what else can be done in advance.
    """

    run_stage: Callable[[StageSpec, Callable[[], bool]], StageResult]
    predict: Callable[[PredictSpec, Callable[[], bool]], tuple[SplitPredictions, ...]]
    warm_up: Callable[[], None] = lambda: None


def worker_duties() -> Duties:
    """Returns the real duties; imports torch, so call it only in a process that trains."""
    from workers.inference import predict
    from workers.training import run_stage, warm_up

    return Duties(memory_returned(run_stage), memory_returned(predict), warm_up)


def this_process() -> Where:
    """Returns the place of an actor that is in no cluster."""
    return Where(socket.gethostname(), "", os.getpid(), "CPU", "")


class MemberActor:
    """Trains and predicts in its own process, one member after another. `stop` is called on another thread.

    Processes are reused, since they have torch loaded: a new one for each member took 2.5 to 4 s, on two cores.
    """

    def __init__(self, duties: Callable[[], Duties] = worker_duties, where: Callable[[], Where] = this_process) -> None:
        self._duties, self._where = duties, where
        self._stop = threading.Event()
        # Two threads that import torch at once may see it half loaded.
        self._one_at_a_time = threading.Lock()
        self._listener: socket.socket | None = None

    def where(self) -> Where:
        """Returns where the actor runs."""
        return self._where()

    def warm_up(self, num_threads: int, code: str = "") -> None:
        """Loads what a stage on `num_threads` threads needs, unless the code here is not the launch's `code`."""
        with self._one_at_a_time:
            if code and code != self._code:
                return
            _set_openmp_threads(num_threads)
            # Nobody waits for the answer, and Ray would print it: the stage meets the same error and reports it.
            with suppress(Exception):
                self._duties().warm_up()

    def listen(self) -> tuple[str, int]:
        """Opens the socket where the other workers of a gang will meet this one, of rank 0, and returns its address."""
        self._listener = socket.create_server((self._where().address or _LOOPBACK, 0))
        host, port = self._listener.getsockname()[:2]
        return host, port

    def run_stage(self, spec: StageSpec, meet_at: tuple[str, int] | None = None) -> Outcome:
        """Runs the stage and encodes how it ended; a gang meets where its rank 0 listens."""
        listener, self._listener = self._listener, None
        with listener or nullcontext():
            if meet_at is not None:
                descriptor = None if listener is None else listener.fileno()
                spec = replace(spec, meeting=Meeting(*meet_at, self._where().address or _LOOPBACK, descriptor))
            return self._encoded(spec, lambda: Trained(self._duties().run_stage(spec, self._stop.is_set)))

    def predict(self, spec: PredictSpec) -> Outcome:
        """Writes the member's predictions and encodes how it ended."""
        return self._encoded(spec, lambda: Predicted(self._duties().predict(spec, self._stop.is_set)))

    def stop(self) -> None:
        """Stops the running stage or prediction at its next step, and any later one at its first step."""
        self._stop.set()

    @cached_property
    def _code(self) -> str:
        """Returns the digest of the code that this process loads: it is first asked for before that is loaded."""
        return code_digest()

    def _encoded(self, spec: StageSpec | PredictSpec, work: Callable[[], Outcome]) -> Outcome:
        try:
            if unfit := misfit_here(spec, self._code):
                return replace(unfit, node_id=self._where().node_id)
            if isinstance(spec, StageSpec) and spec.rank > 0:
                # Rank 0 has the member's files, and says in its log.txt what happens.
                with self._one_at_a_time:
                    _set_openmp_threads(spec.numerics.threads)
                    return work()
            # The driver has made the member's folder.
            hold(spec.stage_dir.parent)
            require_held(spec.stage_dir)
            with self._one_at_a_time, _logging_to(spec.stage_dir / layout.LOG):
                _set_openmp_threads(spec.numerics.threads)
                _log.info("%s on %s", "training" if isinstance(spec, StageSpec) else "predicting", self._where())
                beat(spec.stage_dir)
                with _after_predecessor(spec.stage_dir.parent):
                    return work()
        except Stopped as stopped:
            return Halted(str(stopped))
        except Exception as error:  # noqa: BLE001 - the boundary: only values leave an actor
            return failure_of(error)


def _set_openmp_threads(num_threads: int) -> None:
    # Read when torch is first imported; set_num_threads is too late for some of its libraries.
    os.environ["OMP_NUM_THREADS"] = str(num_threads)


def failure_of(error: Exception) -> Failure:
    """Encodes an exception. Running out of memory is not retried, since it would happen again."""
    kind = type(error).__name__
    message, remedy = " ".join(str(error).split()) or kind, advice(error)
    return Failure(
        kind=kind,
        message=f"{message[:_LONGEST_SAID]}: {remedy}" if remedy else message,
        traceback="".join(traceback.format_exception(error)),
        retryable=not isinstance(error, _NEVER_RETRIED) and not remedy,
        diverged_at=error.step if isinstance(error, Diverged) else None,
    )


@contextmanager
def _after_predecessor(member_dir: Path) -> Iterator[None]:
    """Waits up to 10 s for the previous worker of this member to end: two at once may need too much memory.

    The kernel frees the lock when its holder dies. Correctness does not depend on this wait: the fence
    (workers.storage.fence) keeps the previous worker from writing, on other hosts too.
    """
    path = member_dir / layout.ACTOR_LOCK
    lock = FileLock(path, poll_interval=_HOLD_PAUSE_S, fallback_to_soft=False)
    with storage_errors(path):
        member_dir.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=_PREDECESSOR_GONE_S)
        except Timeout:
            _log.warning("%s: the previous worker has not ended; continuing without it", member_dir)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Copies the project's log records to `path`, and why the block failed: messages to the user point there."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    thread = threading.get_ident()
    # In a test several members of one process log at once, each on its own thread.
    handler.addFilter(lambda record: record.thread == thread)
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    try:
        yield
    except Stopped:
        raise
    except Superseded as superseded:
        _log.warning("%s", superseded)
        raise
    except Exception as error:
        _log.exception("%s", " ".join(str(error).split()) or type(error).__name__)
        raise
    finally:
        _log.removeHandler(handler)
        handler.close()
