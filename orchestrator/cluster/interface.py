"""Defines the interface of a cluster of members, and the outcomes of its calls; no Ray."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from workers.protocol import PredictSpec, SplitPredictions, StageResult, StageSpec


@dataclass(frozen=True)
class Trained:
    """The stage is complete."""

    result: StageResult


@dataclass(frozen=True)
class Predicted:
    """The member's predictions are on disk."""

    splits: tuple[SplitPredictions, ...]


@dataclass(frozen=True)
class Halted:
    """Stopped between two steps as requested; the checkpoint is on disk."""

    message: str


@dataclass(frozen=True)
class Failure:
    """The stage or prediction raised an error. `kind` is the exception's class name.

    `diverged_at` is the number of updates made when a value was not finite. Such a failure is replayed, whatever
    `retryable` says, to tell a passing fault from divergence.
    """

    kind: str
    message: str
    traceback: str
    retryable: bool
    diverged_at: int | None = None


@dataclass(frozen=True)
class Lost:
    """The actor's process or node is gone or unreachable. `announced`: its node was known to be draining."""

    reason: str
    announced: bool = False


Outcome = Trained | Predicted | Halted | Failure | Lost


@dataclass(frozen=True)
class Completed:
    """A member's call has ended."""

    member: str
    outcome: Outcome


class Cluster(Protocol):
    """Actors, each used by one member at a time, with at most one call at a time."""

    @property
    def num_slots(self) -> int:
        """Returns how many members run at once."""

    def warm_up(self, num_members: int, num_threads: int) -> None:
        """Starts actors for members to come, and makes them load what they need; returns at once."""

    def acquire(self, member: str) -> None:
        """Assigns the member an idle actor, or starts one."""

    def release(self, member: str) -> None:
        """Makes the actor of a member without a running call idle, so that another member can use it."""

    def discard(self, member: str) -> None:
        """Ends the member's actor, even during a call; does nothing if there is none."""

    def end_idle(self) -> None:
        """Ends idle actors, whose resources others may want on a shared cluster."""

    def run_stage(self, spec: StageSpec) -> None:
        """Starts a stage on the actor of `spec.member`."""

    def predict(self, spec: PredictSpec) -> None:
        """Starts the member's predictions on its actor."""

    def stop(self, member: str) -> None:
        """Stops the member's running stage or prediction at its next step; returns at once."""

    def leaving(self) -> frozenset[str]:
        """Returns the members on draining nodes, which should stop; cheap enough to call often."""

    def poll(self, timeout_s: float) -> Sequence[Completed]:
        """Waits until a call ends, at most `timeout_s`; raises ClusterLost if the cluster is gone."""
