"""Defines the outcomes of a member's calls; no Ray."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from workers.protocol import SplitPredictions, StageResult


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
class Unfit:
    """A node cannot run members: nothing was begun there. `storage`: it does not share the run's storage."""

    reason: str
    storage: bool = False
    node_id: str = ""


@dataclass(frozen=True)
class Where:
    """The place of an attempt: the machine's name and address, the process, the device, and Ray's id of the node."""

    node: str
    address: str
    pid: int
    device: str
    node_id: str

    @property
    def machine(self) -> str:
        """Returns the machine's name and address."""
        return f"{self.node} ({self.address})" if self.address else self.node

    def __str__(self) -> str:
        return f"{self.machine}, pid {self.pid}, {self.device}"


@dataclass(frozen=True)
class Machine:
    """A machine that may train members; `name` is "" for this one. Machines of one kind, with equal rates, are equal.

    `slots` is the most members that its CPUs, GPUs and memory hold. `call` runs a function with its arguments there and
    returns its result, or None if it ends in an error or takes too long.
    """

    name: str = field(compare=False)
    processors: str
    num_cpus: int
    slots: int
    bf16: bool
    compiled_kernels: bool
    call: Callable[..., Any] = field(compare=False, repr=False)


@dataclass(frozen=True)
class Lost:
    """The actor's process or node is gone or unreachable. `announced`: its node was known to be draining."""

    reason: str
    announced: bool = False


Outcome = Trained | Predicted | Halted | Failure | Unfit | Lost


@dataclass(frozen=True)
class Completed:
    """A member's call has ended."""

    member: str
    outcome: Outcome
