"""What runs inside an actor, and the one interface behind which Ray and the in-process backend lie.

Nothing but values leaves an actor: whatever a stage raises is encoded here, by type and text, so that an exception
that cannot be unpickled, or a library the driver has never loaded, cannot take the driver down.
"""

import logging
import os
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from orchestrator.cluster.interface import Failure, Halted, Outcome, Predicted, Trained
from workers.errors import CheckFailed, ConfigError, DataError, Diverged, Stopped, StorageError, Superseded
from workers.protocol import PredictSpec, SplitPredictions, StageResult, StageSpec
from workers.storage import beat, layout, storage_errors

# By class name: the orchestrator does not load torch. The first is torch's own, of any accelerator's allocator.
_ACCELERATOR_KINDS = ("OutOfMemoryError",)
_HOST_KINDS = ("MemoryError",)
# What drivers and libraries raise as a RuntimeError, in their own words, where no allocator of torch's is in between.
_ACCELERATOR_WORDS = (
    *("CUDA error: out of memory", "HIP error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED"),
    *("CUDNN_STATUS_ALLOC_FAILED", "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
)
_HOST_WORDS = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")
_ON_ACCELERATOR = (
    "the accelerator's memory is too small for this member: lower optimizer.batch_size, give it more of a GPU "
    "(cluster.gpus_per_member), or set precision=bf16"
)
_ON_HOST = (
    "this machine's memory is too small for the members at work: lower optimizer.batch_size, or have fewer members at "
    "once (more cluster.cpus_per_member)"
)


def advice(error: Exception) -> str:
    """What to change where `error` says that memory ran out; empty for any other error."""
    kind, text = type(error).__name__, str(error)
    runtime = isinstance(error, RuntimeError)
    if kind in _ACCELERATOR_KINDS or (runtime and any(words in text for words in _ACCELERATOR_WORDS)):
        return _ON_ACCELERATOR
    if kind in _HOST_KINDS or (runtime and any(words in text for words in _HOST_WORDS)):
        return _ON_HOST
    return ""


# A worker of a driver that was killed lives on until the guard or Ray has ended it: about a second. One that is
# stopped, or beyond the driver's reach, may live for ever: the fence keeps its hands off, and nobody waits for it.
_PREDECESSOR_GONE_S = 10.0
_HOLD_PAUSE_S = 0.05
# Of what torch says of memory, which runs to half a page; log.txt has it all.
_LONGEST_SAID = 160
_NEVER_RETRIED = (Diverged, ConfigError, DataError, StorageError, CheckFailed)
# Not this module's name: what log.txt gets are the records below `workers`.
_log = logging.getLogger("workers")


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Duties:
    """The two functions an actor carries out, each told by a call when to stop; tests put their own in place.

    `warm_up` loads ahead of time what the two will need.
    """

    run_stage: Callable[[StageSpec, Callable[[], bool]], StageResult]
    predict: Callable[[PredictSpec, Callable[[], bool]], tuple[SplitPredictions, ...]]
    warm_up: Callable[[], None] = _nothing


def worker_duties() -> Duties:
    """The real ones; imports torch, so only a process that trains may call it."""
    from workers.inference import predict
    from workers.training import run_stage, warm_up

    return Duties(run_stage, predict, warm_up)


class MemberActor:
    """Trains and predicts in its own process, one member after another. `stop` comes in on another thread.

    A process that is there has torch loaded: a new one for every member took 2.5 to 4 s each, on two cores.
    """

    def __init__(self, duties: Callable[[], Duties] = worker_duties) -> None:
        self._duties = duties
        self._stop = threading.Event()
        # Two threads that import torch at once may meet it half loaded.
        self._one_at_a_time = threading.Lock()

    def warm_up(self, num_threads: int) -> None:
        """Loads what a stage that computes on `num_threads` threads will need."""
        with self._one_at_a_time:
            _set_openmp_threads(num_threads)
            self._duties().warm_up()

    def run_stage(self, spec: StageSpec) -> Outcome:
        """Runs the stage to its end and encodes how it ended."""
        return self._encoded(spec, lambda: Trained(self._duties().run_stage(spec, self._stop.is_set)))

    def predict(self, spec: PredictSpec) -> Outcome:
        """Writes the member's predictions and encodes how that ended."""
        return self._encoded(spec, lambda: Predicted(self._duties().predict(spec, self._stop.is_set)))

    def stop(self) -> None:
        """Asks the running stage or prediction to stop; a later one stops at its first step."""
        self._stop.set()

    def _encoded(self, spec: StageSpec | PredictSpec, work: Callable[[], Outcome]) -> Outcome:
        try:
            with self._one_at_a_time, _logging_to(spec.stage_dir / layout.LOG):
                _set_openmp_threads(spec.numerics.threads)
                beat(spec.stage_dir)
                return _logged(spec.stage_dir.parent, work)
        except Stopped as stopped:
            return Halted(str(stopped))
        except Exception as error:  # noqa: BLE001 – the boundary: nothing but values leaves
            return failure_of(error)


def _set_openmp_threads(num_threads: int) -> None:
    # Read when torch is first imported; set_num_threads comes later, too late for some of its libraries.
    os.environ["OMP_NUM_THREADS"] = str(num_threads)


def _logged(member_dir: Path, work: Callable[[], Outcome]) -> Outcome:
    """Whoever looks into log.txt must find there why the work ended: messages to the user send them to it."""
    try:
        with _after_predecessor(member_dir):
            return work()
    except Stopped:
        raise
    except Superseded as superseded:
        _log.warning("%s", superseded)
        raise
    except Exception as error:
        _log.exception("%s", " ".join(str(error).split()) or type(error).__name__)
        raise


def failure_of(error: Exception) -> Failure:
    """Encodes an exception; running out of memory again on the same input is certain, so it is not retried."""
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
    """Waits a while for the worker before this one to be gone: two at once may need more memory than there is.

    The kernel frees the lock when its holder dies, so waiting for it is waiting for the other's death. It is no more
    than a courtesy: the fence (workers.storage.fence) keeps the other from writing, across hosts too.
    """
    path = member_dir / layout.ACTOR_LOCK
    lock = FileLock(path, poll_interval=_HOLD_PAUSE_S, fallback_to_soft=False)
    with storage_errors(path):
        member_dir.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=_PREDECESSOR_GONE_S)
        except Timeout:
            _log.warning("%s: the worker before this one is not gone; going on without it", member_dir)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Sends the project's log records to `path` as well."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    thread = threading.get_ident()
    # In one process (local_actors) several members log at once, each from its own thread.
    handler.addFilter(lambda record: record.thread == thread)
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    try:
        yield
    finally:
        _log.removeHandler(handler)
        handler.close()
