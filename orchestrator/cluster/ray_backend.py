"""Runs members as Ray actors.

Ray's own retries are off for members: restarting an actor only runs `__init__` again, and the driver's ledger keeps the
budgets. Ray is imported late, since `--help` and `plan` do not need it.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from orchestrator.cluster.actor import Duties, MemberActor, failure_of, worker_duties
from orchestrator.cluster.interface import Completed, Failure, Lost, Outcome, Unfit, Where
from orchestrator.cluster.memory import memory_limit, oom_kills
from orchestrator.cluster.preflight import Needs
from orchestrator.cluster.ray_gang import DEATH_TOLD_S, Followers, place_together
from orchestrator.cluster.ray_head import LOOK_EVERY_S, Head
from orchestrator.cluster.ray_machines import able_nodes
from orchestrator.cluster.ray_nodes import (
    Node,
    cluster_errors,
    count_slots,
    here,
    leaving_nodes,
    living_nodes,
    lost_as_such,
    memory_to_ask,
    slots_of,
    usable_nodes,
)
from orchestrator.cluster.ray_preflight import Preflight
from orchestrator.cluster.ray_session import (
    attached,
    first_line,
    local,
    unless_lost,
)
from orchestrator.cluster.ray_waiting import may_join
from orchestrator.text import counted, size
from workers.errors import ConfigError
from workers.protocol import PredictSpec, StageSpec

if TYPE_CHECKING:
    from orchestrator.config import ClusterConfig

# More at once would not bring an autoscaler's nodes sooner.
_MOST_ASKED = 100


@contextmanager
def open_cluster(settings: "ClusterConfig", needs: Needs | None = None) -> Iterator["RayCluster"]:
    """Starts a local Ray, or joins the cluster at `settings.address`, for the length of the block.

    With `needs` only nodes that fit are used; a local Ray's node is not looked at. Waits where a node may join.

    Raises:
        ConfigError: no node has room for a member or fits, or the cluster does not answer.
        StorageError: no node shares the storage.
    """
    is_local = settings.address is None
    with local() if settings.address is None else attached(settings) as watch:
        preflight = Preflight(None if is_local else needs)
        asked, nodes = (settings.cpus_per_member, settings.gpus_per_member), able_nodes(preflight, settings)
        # A local Ray has no other user; how many members its memory holds is in `cpus_per_member`.
        memory = 0 if is_local or needs is None else memory_to_ask(needs.member_bytes, nodes)
        num_slots = count_slots(nodes, *asked, memory)
        cluster = RayCluster(num_slots, *asked, nodes_change=not is_local, preflight=preflight, member_bytes=memory)
        cluster.grows = not is_local and may_join(settings.wait_s)
        if num_slots < (least := settings.workers_per_member[0]) and not cluster.grows:
            room = f"the nodes have room for {counted(num_slots, 'worker')} at once"
            raise ConfigError(f"cluster.workers_per_member: {room}, not for {least}; give a smaller first number")
        with unless_lost(cluster.close, watch):
            yield cluster


class RayCluster:
    """Ray actors, each used by one member at a time, with at most one call at a time; a member may have several."""

    def __init__(
        self,
        num_slots: int,
        cpus_per_member: int,
        gpus_per_member: float,
        duties: Callable[[], Duties] = worker_duties,
        *,
        nodes_change: bool = False,
        preflight: Preflight | None = None,
        member_bytes: int = 0,
    ) -> None:
        """`num_slots` actors work at once, fewer while nodes drain; `nodes_change`: nodes may join, leave and drain.

        Each asks Ray for `member_bytes` of memory.
        """
        self._preflight = preflight or Preflight(None)
        self._suspects: Mapping[str, str] = {}
        self._places: dict[Any, Any] = {}
        self.num_slots = num_slots
        self.is_local = not nodes_change
        self.grows = False
        self._nodes_change, self._looked_s = nodes_change, 0.0
        self._head: Head | None = None
        self._asked = cpus_per_member, gpus_per_member, member_bytes
        self._resources = {"num_cpus": cpus_per_member, "num_gpus": gpus_per_member, "memory": member_bytes}
        self._duties = duties
        # The actor of rank 0, which has the member's files.
        self._actors: dict[str, Any] = {}
        self._followers: dict[str, Followers] = {}
        self._idle: list[Any] = []
        # The code of a user's that an actor has imported: it may have changed torch.
        self._codes: dict[Any, str] = {}
        # Whose each call is: the member and the rank.
        self._calls: dict[Any, tuple[str, int]] = {}
        # After a member ran out of memory, fewer run at once; these ran beside it.
        self._most = math.inf if nodes_change else num_slots
        self._crowded = set[str]()
        # The kernel's count at the last two looks, `DEATH_TOLD_S` apart.
        self._oom_kills, self._counted_s = (oom_kills(),) * 2, 0.0

    @property
    def left_out(self) -> dict[str, str]:
        """Returns a line for each node that is not used, by Ray's id: it does not fit, or is in quarantine."""
        return {**self._preflight.left_out, **self._suspects}

    def nodes(self) -> list[Node]:
        """Returns the living nodes that fit, those in quarantine too."""
        return self._preflight.fitting(self._able(living_nodes()))

    def describe(self) -> list[str]:
        """Returns a line for each living node: what it has, and why members do not use it, if so."""
        left_out, able = self.left_out, self._able(nodes := living_nodes())
        why = {node.name: left_out.get(node.name, "" if node in able else "too small for a member") for node in nodes}
        return [f"{node}: {node.cpus:g} CPUs, {node.gpus:g} GPUs  {why[node.name]}".rstrip() for node in nodes]

    def quarantine(self, suspects: Mapping[str, str]) -> None:
        """Uses these nodes no more, and those that were given before again; their members should stop (`leaving`)."""
        self._suspects = suspects

    def where(self, member: str) -> Where | None:
        """Returns where the member's actor runs, of a gang rank 0 or who ended it; None as long as it has no node."""
        followers = self._followers.get(member)
        return self._place(self._actors_of(member)[followers.cause if followers else 0])

    def warm_up(self, num_members: int, num_threads: int, code: str = "") -> None:
        """Starts actors for members to come, and makes them load what they need; returns at once."""
        for _ in range(min(num_members, self.num_slots)):
            self._idle.append(self._new())
            self._idle[-1].warm_up.remote(num_threads, code)

    def acquire(self, member: str, width: int = 1, code: str = "") -> None:
        """Assigns the member idle actors, or starts some: `width` of them, on a cluster close to each other.

        They will import the user's `code`, and have imported no other. Their nodes are not left out.
        """
        group, placed = None, [dict[str, Any]()] * width
        if width > 1 and self._nodes_change:
            # None of them is in the group, whose room they may hold.
            self.end_idle()
            group, placed = place_together(width, self._resources, self._avoided())
        left_out, idle = self.left_out, [] if group else self._idle[::-1]
        fit = [one for one in idle if self._codes.get(one, code) == code and self._node_of(one) not in left_out][:width]
        self._idle = [one for one in self._idle if one not in fit]
        actors = fit + [self._new(**place) for place in placed[len(fit) :]]
        self._codes |= dict.fromkeys(actors if code else (), code)
        self._actors[member] = actors[0]
        if width > 1:
            self._followers[member] = Followers(actors[1:], group)

    def leaving(self) -> frozenset[str]:
        """Returns the members on draining nodes, which should stop; cheap enough to call often."""
        if not self._nodes_change or time.monotonic() - self._looked_s < LOOK_EVERY_S or not self._look_at_head():
            return frozenset()
        self._looked_s = time.monotonic()
        with lost_as_such():
            gone_soon = leaving_nodes() | self.left_out.keys()
            staying = [node for node in self.nodes() if node.name not in gone_soon]
            # At least one, which waits for a node to join.
            self.num_slots = int(min(self._most, count_slots(staying, *self._asked, least=1)))
            if not gone_soon:
                return frozenset()
            for actor in [actor for actor in self._idle if self._node_of(actor) in gone_soon]:
                self._idle.remove(actor)
                self._kill(actor)
            return frozenset(
                member
                for member in self._actors
                if any(self._node_of(actor) in gone_soon for actor in self._actors_of(member))
            )

    def release(self, member: str) -> None:
        """Makes the actors of a member without a running call idle, so that other members can use them."""
        followers = self._followers.get(member)
        if followers and followers.group:
            # They are bound to its place.
            self.discard(member)
            return
        self._idle += self._actors_of(member)
        self._forget(member)

    def discard(self, member: str) -> None:
        """Ends the member's actors, even during a call; does nothing if there is none."""
        if member in self._actors:
            for actor in self._actors_of(member):
                self._kill(actor)
            if member in self._followers:
                self._followers[member].remove_group()
            self._forget(member)

    def _forget(self, member: str) -> None:
        self._drop_calls(member)
        del self._actors[member]
        self._followers.pop(member, None)

    def _drop_calls(self, member: str) -> None:
        self._calls = {call: (of, rank) for call, (of, rank) in self._calls.items() if of != member}

    def _actors_of(self, member: str) -> list[Any]:
        """Returns the member's actors by rank."""
        followers = self._followers.get(member)
        return [self._actors[member], *(followers.actors if followers else ())]

    def end_idle(self, wanted: int = 0) -> None:
        """Ends idle actors, whose resources others may want on a shared cluster.

        If the cluster `grows`, there are `wanted` of them: without a machine they are demand to Ray's autoscaler.
        """
        gangs = [actor for member in self._followers for actor in self._actors_of(member)]
        # Idle ones would take the room that a gang waits for.
        kept = min(wanted, _MOST_ASKED) if self.grows and all(map(self._node_of, gangs)) else 0
        # `acquire` takes the last.
        self._idle.sort(key=lambda actor: bool(self._node_of(actor)))
        while len(self._idle) > kept:
            self._kill(self._idle.pop(0))
        while len(self._idle) < kept:
            self._idle.append(self._new())

    def run_stage(self, spec: StageSpec) -> None:
        """Starts a stage on the actors of `spec.member`, of which there are `spec.width`."""
        job, actors, meet_at = f"{spec.member}/{spec.stage}", self._actors_of(spec.member)[: spec.width], None
        if spec.width > 1:
            self._followers[spec.member].begin()
            # Nobody here waits for the address: it is handed on.
            meet_at = actors[0].listen.remote()
        for rank, actor in enumerate(actors):
            call = _called(actor.run_stage, job, replace(spec, rank=rank), meet_at)
            self._calls[call] = spec.member, rank

    def predict(self, spec: PredictSpec) -> None:
        """Starts the member's predictions on its actor."""
        call = _called(self._actors[spec.member].predict, f"{spec.member}/predictions", spec)
        self._calls[call] = spec.member, 0

    def stop(self, member: str) -> None:
        """Stops the member's running stage or prediction at its next step; returns at once."""
        actors = self._actors_of(member)
        if self._nodes_change and not all(map(self._node_of, actors)):
            # An actor waits for a node, perhaps forever, and has nothing to save.
            for actor in actors:
                self._kill(actor)
        else:
            actors[0].stop.remote()

    def poll(self, timeout_s: float) -> Sequence[Completed]:
        """Waits until a call ends, at most `timeout_s`; raises ClusterLost if the cluster is gone."""
        import ray

        if not self._calls:
            return ()
        self._look_at_head()
        if time.monotonic() - self._counted_s > DEATH_TOLD_S:
            self._oom_kills, self._counted_s = (self._oom_kills[1], oom_kills()), time.monotonic()
        with lost_as_such():
            ray.wait(list(self._calls), timeout=timeout_s)
            ready, _ = ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0)
            num_running, ended = len(self._calls), dict[str, Outcome]()
            for call in ready:
                member, rank = self._calls.pop(call)
                outcome = self._outcome(call, num_running, crowded=member in self._crowded)
                self._crowded.discard(member)
                if followers := self._followers.get(member):
                    followers.note(rank, outcome)
                else:
                    ended[member] = outcome
        for member, followers in self._followers.items():
            if outcome_of_all := followers.outcome():
                ended[member] = outcome_of_all
                followers.begin()
                self._drop_calls(member)
        return [Completed(*one) for one in ended.items()]

    def close(self) -> None:
        """Ends every actor, even if the cluster is already gone."""
        with contextlib.suppress(*cluster_errors()):
            self.end_idle()
        for member in list(self._actors):
            with contextlib.suppress(*cluster_errors()):
                self.discard(member)

    def _look_at_head(self) -> bool:
        import ray

        if self._head is None:
            self._head = Head(ray.get_runtime_context().gcs_address)
        return self._head.look()

    def _avoided(self) -> set[str]:
        """Returns Ray's ids of the nodes that a new actor must not use."""
        if avoided := {*self.left_out}:
            self._preflight.require_some(self._able(living_nodes()))
        if (unknown := self._preflight.unanswered) and self.nodes():
            # One of these may never answer. Where they are all there is, the actor waits and may use them.
            avoided |= unknown
        return avoided

    def _new(self, **place: Any) -> Any:
        """Starts an actor at a `place`, given as Ray's options, or wherever there is room."""
        import ray

        place = place or usable_nodes(self._avoided())
        # Three threads: one for the stage, one for `warm_up`, which may wait for the stage, and one for `stop`.
        remote: Any = ray.remote(MemberActor)
        options = remote.options(max_restarts=0, max_concurrency=3, **self._resources, **place)
        actor = options.remote(self._duties, here)
        self._places[actor] = actor.where.remote()
        return actor

    def _kill(self, actor: Any) -> None:
        import ray

        self._places.pop(actor, None)
        self._codes.pop(actor, None)
        ray.kill(actor)

    def _place(self, actor: Any) -> Where | None:
        """Returns where an actor runs, as it said once it was there."""
        import ray
        from ray.exceptions import RayError

        place = self._places.get(actor)
        if place is None:
            return None
        if not isinstance(place, Where) and ray.wait([place], timeout=0)[0]:
            with contextlib.suppress(RayError):
                place = self._places[actor] = ray.get(place)
        return place if isinstance(place, Where) else None

    def _node_of(self, actor: Any) -> str:
        """Returns the id of an actor's node; "" while it waits for one."""
        place = self._place(actor)
        return place.node_id if place else ""

    def _able(self, nodes: Sequence[Node]) -> list[Node]:
        """Returns the nodes that are large enough for a member."""
        return [node for node in nodes if slots_of(node, *self._asked)]

    def _outcome(self, call: Any, num_running: int, *, crowded: bool) -> Outcome:
        import ray
        from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

        try:
            outcome: Outcome = ray.get(call)
        except (RayActorError, WorkerCrashedError, NodeDiedError, OutOfMemoryError) as error:
            # If the head is gone too, the driver's next call to Ray would hang until Ray ends this process.
            while not self._look_at_head():
                time.sleep(LOOK_EVERY_S)
            if isinstance(error, OutOfMemoryError) or (not self._nodes_change and oom_kills() > self._oom_kills[0]):
                return self._out_of_memory(num_running, crowded=crowded)
            return Lost(first_line(error), announced=isinstance(error, RayActorError) and error.preempted)
        except RayTaskError as error:
            return failure_of(error)
        if isinstance(outcome, Unfit):
            self._preflight.refused(outcome)
        return outcome

    def _out_of_memory(self, num_running: int, *, crowded: bool) -> Outcome:
        """Makes fewer members run at once; with one alone, repeating it unchanged would end in the same way."""
        why = f"it was killed because memory ran out (the limit here is {size(memory_limit())})"
        if num_running > 1:
            self._crowded |= {member for member, _ in self._calls.values()}
            self.num_slots = self._most = max(1, min(self.num_slots, num_running) - 1)
        if num_running > 1 or crowded:
            return Lost(f"{why}; from now on at most {counted(self.num_slots, 'member')} at once")
        remedy = "set optimizer.micro_batch, lower optimizer.batch_size or model.width, or raise the limit"
        return Failure("OutOfMemory", f"{why} though nothing ran beside it: {remedy}", "", retryable=False)


def _called(method: Any, job: str, *given: Any) -> Any:
    """Calls an actor's method under a name that says, in Ray's dashboard and in `ps`, whose work it is."""
    return method.options(name=f"MemberActor.{method._method_name} {job}").remote(*given)
