"""The interface of a cluster of members, and the outcomes of their calls: values only, no Ray."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from workers.protocol import PredictSpec, SplitPredictions, StageResult, StageSpec


@dataclass(frozen=True)
class Trained:
    """The stage is at its end."""

    result: StageResult


@dataclass(frozen=True)
class Predicted:
    """The member's predictions are on disk."""

    splits: tuple[SplitPredictions, ...]


@dataclass(frozen=True)
class Halted:
    """Stopped at a step boundary as asked; the checkpoint is on disk."""

    message: str


@dataclass(frozen=True)
class Failure:
    """The work raised an error of its own. `kind` is the exception's class name.

    `diverged_at`: something was not finite after that many updates. Whether it is so again tells divergence from a
    passing fault, so that is replayed once, whatever `retryable` says.
    """

    kind: str
    message: str
    traceback: str
    retryable: bool
    diverged_at: int | None = None


@dataclass(frozen=True)
class Lost:
    """The actor is gone: its process, its node, or the way there. `announced`: its node had been told that it goes."""

    reason: str
    announced: bool = False


Outcome = Trained | Predicted | Halted | Failure | Lost


@dataclass(frozen=True)
class Completed:
    """A member's call has come to an end."""

    member: str
    outcome: Outcome


class Cluster(Protocol):
    """Actors, each of one member at a time, with at most one call at a time."""

    @property
    def num_slots(self) -> int:
        """How many members fit at once."""

    def warm_up(self, num_members: int, num_threads: int) -> None:
        """Starts actors ahead of the members that will want them, and has them load what they need; returns at once."""

    def acquire(self, member: str) -> None:
        """Gives the member an idle actor, or starts one."""

    def release(self, member: str) -> None:
        """Takes the actor back from a member that has no call under way, for another one to use."""

    def discard(self, member: str) -> None:
        """Ends the member's actor, also in the middle of a call; does nothing where there is none."""

    def end_idle(self) -> None:
        """Ends the actors that no member has: on a shared cluster they would hold what others may want."""

    def run_stage(self, spec: StageSpec) -> None:
        """Starts a stage on the actor of `spec.member`."""

    def predict(self, spec: PredictSpec) -> None:
        """Starts the member's predictions on its actor."""

    def stop(self, member: str) -> None:
        """Asks the member's running stage or prediction to stop at its next step; returns at once."""

    def leaving(self) -> frozenset[str]:
        """Members whose machine was told that it will be taken away, and who should stop; may be asked often."""

    def poll(self, timeout_s: float) -> Sequence[Completed]:
        """Waits until a call is over, at most `timeout_s`; raises ClusterLost when the cluster is gone."""
