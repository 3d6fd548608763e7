"""Runs members as threads of this process, behind the same interface as Ray.

torch's generator and thread count belong to the process: real duties give a run's own bits only with one slot.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import ClassVar

from orchestrator.cluster.actor import Duties, MemberActor, worker_duties
from orchestrator.cluster.interface import Completed, Lost, Outcome, Unfit, Where
from orchestrator.cluster.preflight import none_left
from workers.protocol import PredictSpec, StageSpec


class ActorDied(BaseException):
    """Raised by a test's duty to simulate the death of its actor; no `except Exception` catches it."""


class LocalActors:
    """Stands for `RayCluster`, with `num_slots` threads.

    `acquired`, `released` and `discarded` list the calls, in order. `told_to_leave` holds the members whose node a test
    declares to be draining. `widths` says how many workers each member has; of a gang rank 0 alone runs, as one thread,
    since threads share torch's generator, and others only take slots.
    """

    is_local = True
    grows = False
    left_out: ClassVar[dict[str, str]] = {}

    def __init__(self, num_slots: int, duties: Callable[[], Duties] = worker_duties) -> None:
        self._num_slots = num_slots
        self._duties = duties
        self._actors: dict[str, MemberActor] = {}
        self._idle: list[MemberActor] = []
        self._completed: queue.SimpleQueue[tuple[MemberActor, Completed]] = queue.SimpleQueue()
        self.acquired: list[str] = []
        self.released: list[str] = []
        self.discarded: list[str] = []
        self.num_started = 0
        self.threads: list[threading.Thread] = []
        self.told_to_leave: set[str] = set()
        self.widths: dict[str, int] = {}

    @property
    def num_slots(self) -> int:
        return self._num_slots

    def warm_up(self, num_members: int, num_threads: int, code: str = "") -> None:
        """Does nothing: threads start at once."""

    def acquire(self, member: str, width: int = 1, code: str = "") -> None:
        if member in self._actors:
            raise RuntimeError(f"{member}: an actor is already there")
        if sum(self.widths.values()) + width > self._num_slots:
            raise RuntimeError("no slot free")
        self._actors[member] = self._idle.pop() if self._idle else self._new()
        self.widths[member] = width
        self.acquired.append(member)

    def leaving(self) -> frozenset[str]:
        return frozenset(self.told_to_leave & set(self._actors))

    def release(self, member: str) -> None:
        self._idle.append(self._actors.pop(member))
        del self.widths[member]
        self.released.append(member)

    def discard(self, member: str) -> None:
        actor = self._actors.pop(member, None)
        if actor is not None:
            self.told_to_leave.discard(member)
            del self.widths[member]
            actor.stop()
            self.discarded.append(member)

    def where(self, member: str) -> Where | None:
        return self._actors[member].where() if member in self._actors else None

    def end_idle(self, wanted: int = 0) -> None:
        self._idle.clear()

    def run_stage(self, spec: StageSpec) -> None:
        actor = self._actors[spec.member]
        if spec.width > self.widths[spec.member]:
            raise RuntimeError(f"{spec.member}: has {self.widths[spec.member]} workers, not {spec.width}")
        self._start(spec.member, lambda: actor.run_stage(spec))

    def predict(self, spec: PredictSpec) -> None:
        actor = self._actors[spec.member]
        self._start(spec.member, lambda: actor.predict(spec))

    def stop(self, member: str) -> None:
        self._actors[member].stop()

    def poll(self, timeout_s: float) -> Sequence[Completed]:
        try:
            found = [self._completed.get(timeout=timeout_s)]
        except queue.Empty:
            return ()
        while not self._completed.empty():
            found.append(self._completed.get())
        for _, one in found:
            if isinstance(one.outcome, Unfit):
                # This machine is the only node.
                raise none_left({"this": one.outcome})
        # A thread cannot be killed, so the outcome of a discarded actor is dropped.
        return [one for actor, one in found if self._actors.get(one.member) is actor]

    def _new(self) -> MemberActor:
        if len(self._actors) + len(self._idle) >= self._num_slots:
            raise RuntimeError("no slot free")
        self.num_started += 1
        return MemberActor(self._duties)

    def _start(self, member: str, work: Callable[[], Outcome]) -> None:
        actor = self._actors[member]

        def run() -> None:
            try:
                outcome = work()
            except ActorDied as death:
                outcome = Lost(str(death))
            self._completed.put((actor, Completed(member, outcome)))

        self.threads.append(threading.Thread(target=run, name=f"member-{member}", daemon=True))
        self.threads[-1].start()
