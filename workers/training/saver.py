"""Saves checkpoints off the training path: the training thread copies the state, another hashes and writes it.

A save costs the training thread one copy of weights and optimizer state, into buffers that are reused. At most one
checkpoint is in flight; the next save waits until it is committed. So memory is bounded (one copy, with SGD 8 bytes a
parameter: 0.49 GB for the full-size net) and checkpoints are committed in the order of their steps. A kill costs the
work since the last committed copy, never more than two intervals.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from workers.errors import Diverged, Stopped
from workers.models import beside, saved_parts_of, whole_shape
from workers.protocol import StageSpec
from workers.storage import Checkpoint, fence_of, layout, prune, write_checkpoint
from workers.training.averaging import Average
from workers.training.loop import TrainState
from workers.training.metrics import MetricsLog, StepMark
from workers.training.optimizer import slots, state_parts

_LOOK_EVERY_S = 1.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Copied:
    """Weights (with persistent buffers) and the optimizer's state as they were at one update, by name.

    The average of the weights, if one is kept up, is with the optimizer's state; averaged weights have no such state.
    """

    model: dict[str, np.ndarray]
    optimizer: dict[str, np.ndarray] | None


class Snapshot:
    """Copies weights, optimizer state and their average, if there is one, into host memory that is allocated once."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None = None) -> None:
        self._model, self._optimizer = model, optimizer
        self._average = {} if average is None else average.parts
        self._weights = {name: _buffer(parts) for name, parts in saved_parts_of(model).items()}
        every = slots(model, optimizer)
        self._state = {slot.name: _buffer(slot.saved) for slot in every if slot.parts[0].requires_grad}
        self._state |= {name: _buffer(parts) for name, parts in self._average.items()}

    def touch(self) -> None:
        """Makes the kernel map the buffers now; during the first copy it would take longer than the copy itself."""
        for buffer in (*self._weights.values(), *self._state.values()):
            # NumPy, because torch would start a second set of OpenMP threads for the calling thread.
            buffer.numpy().fill(0)

    def take(self) -> Copied:
        """Returns a copy, which overwrites the previous one."""
        state = {**state_parts(self._model, self._optimizer), **self._average}
        return Copied(_copied(saved_parts_of(self._model), self._weights), _copied(state, self._state))


def _buffer(parts: Sequence[Tensor]) -> Tensor:
    # Contiguous like the file, whatever the parameter's layout; pinned where a GPU copies into it.
    return torch.empty(whole_shape(parts), dtype=parts[0].dtype, pin_memory=parts[0].is_cuda)


def _copied(tensors: Mapping[str, Sequence[Tensor]], buffers: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    for name, parts in tensors.items():
        for part, place in beside(parts, buffers[name]):
            place.copy_(part.detach())
    return {name: buffers[name].numpy() for name in tensors}


class Saver:
    """Decides after each update whether a checkpoint is due, and keeps the best, the last two and those to average.

    Use it as a context manager: after the block, the checkpoint in flight is finished and the thread has ended. The
    next call raises an error of the writing thread as it is. If the block ends by another error, the writer's error is
    logged; if both say that the net diverged, the writer's is raised, because it names the earlier step.
    """

    def __init__(
        self,
        spec: StageSpec,
        data_digest: str,
        snapshot: Snapshot,
        metrics: MetricsLog,
        mark: StepMark,
        should_stop: Callable[[], bool],
        resumed: Checkpoint | None,
        classes_sha256: str = "",
    ) -> None:
        """Starts the thread; `resumed` is the checkpoint that training resumes from."""
        self._spec, self._snapshot = spec, snapshot
        self._metrics, self._mark, self._should_stop = metrics, mark, should_stop
        self._folder = spec.stage_dir / layout.CHECKPOINTS
        self._fence, self._looked_s = fence_of(spec.stage_dir, spec.fence), time.monotonic()
        self._identity = {
            "attempt": spec.attempt,
            "stage_hash": spec.stage_hash,
            "data_digest": data_digest,
            "classes_sha256": classes_sha256,
        }
        self._committed = resumed
        self._verified = set() if resumed is None else {resumed.step}
        self._saved_step = None if resumed is None else resumed.step
        self._in_flight: Future[Checkpoint] | None = None
        self._stops = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._touched = self._thread.submit(snapshot.touch)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        unseen = self._in_flight.exception() if self._in_flight is not None else None
        if isinstance(unseen, Diverged) and isinstance(error, Diverged):
            raise unseen from error
        if unseen is not None:
            _log.warning("%s/%s: the last checkpoint was not written: %s", self._spec.member, self._spec.stage, unseen)

    def is_due(self, step: int) -> bool:
        """Notes that update `step` is made, and returns whether `after_update` has to see its state.

        Raises:
            Diverged: the checkpoint in flight is not finite.
            StorageError: it could not be written.
            Superseded: a newer attempt has taken over.
        """
        self._mark.set(step)
        self._look()
        if self._in_flight is not None and self._in_flight.done():
            self._wait()
        self._stops = self._should_stop()
        return self._stops or self._overdue(step)

    def after_update(self, state: TrainState, epoch_ended: bool) -> None:
        """Saves if a checkpoint is due, and stops here if asked to; call `is_due` before.

        Raises:
            Stopped: `should_stop` returned true; `state` is committed.
            Diverged: the state is not finite.
            StorageError: a checkpoint could not be written.
        """
        keeps_it = epoch_ended and state.step in state.kept_steps
        if keeps_it or self._overdue(state.step):
            self._save(state)
        if self._stops:
            self.finish(state)
            raise Stopped(f"{self._spec.member}/{self._spec.stage}: stopped after update {state.step}")

    def finish(self, state: TrainState) -> Checkpoint:
        """Returns the checkpoint of `state` once it is committed.

        Raises:
            Diverged: it, or the one in flight before it, is not finite.
            StorageError: it, or the one in flight before it, could not be written.
        """
        if self._saved_step != state.step:
            self._save(state)
        committed = self._wait()
        assert committed is not None
        # Again, because a kill may have come between a commit and the pruning after it.
        self._verified = prune(self._folder, state.kept_steps, self._verified, check=self._fence.check)
        return committed

    def write_averaged(self, state: TrainState) -> Checkpoint:
        """Commits the net's weights as they are now, and nothing to resume from; call `finish` first; raises as it."""
        return self._commit(state, replace(self._snapshot.take(), optimizer=None))

    def _overdue(self, step: int) -> bool:
        return step - (self._saved_step or 0) >= self._spec.checkpoint_updates

    def _save(self, state: TrainState) -> None:
        """Waits for the previous checkpoint, then copies the state and hands it to the writer."""
        self._wait()
        self._touched.result()
        copied = self._snapshot.take()
        self._saved_step = state.step
        self._in_flight = self._thread.submit(self._commit, state, copied)

    def _commit(self, state: TrainState, copied: Copied) -> Checkpoint:
        """Runs in the writing thread; syncs metrics first: a checkpoint means that its metrics are on disk."""
        self._metrics.sync()
        folder, check = self._folder, self._fence.check
        kept: dict[str, object] = {"train": asdict(state)}
        if self._spec.teachers:
            kept["taught_by"] = self._spec.taught_by
        checkpoint = write_checkpoint(
            folder, state.step, copied.model, copied.optimizer, kept, self._identity, self._mark.beat, check
        )
        known = {*self._verified, checkpoint.step}
        self._verified = prune(folder, state.kept_steps, known, check=check)
        return checkpoint

    def _look(self) -> None:
        """Checks the fence every second, so that an attempt that was given up ends soon."""
        if time.monotonic() - self._looked_s >= _LOOK_EVERY_S:
            self._looked_s = time.monotonic()
            self._fence.check()

    def _wait(self) -> Checkpoint | None:
        """Waits for the checkpoint in flight and returns the newest committed one."""
        if self._in_flight is not None:
            written, self._in_flight = self._in_flight, None
            self._committed = written.result()
        return self._committed
