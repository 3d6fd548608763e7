"""Runs members as Ray actors, and packs shards as Ray tasks.

Ray's own retries are off for members: restarting an actor only runs `__init__` again, and the driver's ledger keeps the
budgets. Ray is imported late, since `--help` and `plan` do not need it.
"""

import contextlib
import itertools
import math
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from orchestrator.cluster.actor import Duties, MemberActor, failure_of, worker_duties
from orchestrator.cluster.interface import Completed, Failure, Lost, Outcome
from orchestrator.cluster.memory import memory_limit, oom_kills
from orchestrator.cluster.ray_nodes import (
    LOOK_EVERY_S,
    Head,
    Node,
    cluster_errors,
    count_slots,
    leaving_nodes,
    living_nodes,
    local_gpus,
    lost_as_such,
    node_of,
)
from orchestrator.cluster.ray_session import (
    LOCAL_ENVIRONMENT,
    attached,
    available_cpus,
    environment,
    first_line,
    local,
    unless_lost,
)
from orchestrator.text import counted, size
from workers.data.sources import Loader
from workers.data.store import PackedShard, PackingThreads, ShardJob, ShardRunner, pack_shard
from workers.errors import ClusterLost, SeptetError, StorageError
from workers.protocol import PredictSpec, StageSpec

if TYPE_CHECKING:
    from orchestrator.config import ClusterConfig

# Ray tells a worker's death within this time.
_DEATH_TOLD_S = 10.0


def check_resources(settings: "ClusterConfig") -> int:
    """Returns how many members run at once. Called before anything on disk is touched.

    Raises:
        ConfigError: no node has room for a member, or the cluster does not answer.
    """
    if settings.address is None:
        # Ray reads its settings when it is first imported, so they must be set before.
        with environment(LOCAL_ENVIRONMENT):
            nodes = [Node(available_cpus(), local_gpus() if settings.gpus_per_member else 0)]
    else:
        with attached(settings.address):
            nodes = living_nodes()
    return count_slots(nodes, settings.cpus_per_member, settings.gpus_per_member)


@contextmanager
def open_cluster(settings: "ClusterConfig") -> Iterator["RayCluster"]:
    """Starts a local Ray, or joins the cluster at `settings.address`, for the length of the block.

    Raises:
        ConfigError: no node has room for a member, or the cluster does not answer.
    """
    with local() if settings.address is None else attached(settings.address):
        asked = settings.cpus_per_member, settings.gpus_per_member
        cluster = RayCluster(count_slots(living_nodes(), *asked), *asked, nodes_change=settings.address is not None)
        with unless_lost(cluster.close):
            yield cluster


def shard_runner(settings: "ClusterConfig") -> ShardRunner:
    """Returns what packs datasets: the CPUs of the cluster at `settings.address`, else threads of this process.

    A local Ray takes seconds to start and has the same CPUs.
    """
    return PackingThreads() if settings.address is None else RayShards(settings.address)


class RayShards:
    """A `ShardRunner` of Ray tasks, one for each CPU of the cluster. Joins the cluster when there is a shard to pack.

    Ray runs a lost task again, unlike a lost stage: a shard takes seconds and is the same wherever it is packed.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def run(self, loader: Loader, jobs: Iterator[ShardJob], packed: Callable[[int], None]) -> Iterator[PackedShard]:
        first = next(jobs, None)
        if first is None:
            return
        with attached(self._address):
            yield from self._packed(loader, itertools.chain((first,), jobs), packed)

    def _packed(self, loader: Loader, jobs: Iterator[ShardJob], packed: Callable[[int], None]) -> Iterator[PackedShard]:
        import ray
        from ray.exceptions import RayError, RayTaskError

        task: Any = ray.remote(_pack_shard).options(num_cpus=1)
        # Two tasks a CPU, so that the next is ready when one is done. Only names go out and sizes come back, no pixels.
        most = 2 * max(1, math.floor(sum(node.cpus for node in living_nodes())))
        try:
            shared = ray.put(loader)
            waiting = {task.remote(shared, job): len(job.rows) for job in itertools.islice(jobs, most)}
            while waiting:
                (done, *_), _ = ray.wait(list(waiting), num_returns=1)
                num_images = waiting.pop(done)
                shard: PackedShard = ray.get(done)
                for job in itertools.islice(jobs, 1):
                    waiting[task.remote(shared, job)] = len(job.rows)
                packed(num_images)
                yield shard
        except RayTaskError as error:
            # Drops Ray's page of traceback.
            if isinstance(error.cause, SeptetError):
                raise error.cause from error
            raise
        except RayError as error:
            raise ClusterLost(
                f"the Ray cluster lost a shard ({first_line(error)}); run the same command again"
            ) from error


def _pack_shard(loader: Loader, job: ShardJob) -> PackedShard:
    """Packs one shard, on any node. A shard written to that node's own disk would be lost silently."""
    if not job.folder.is_dir():
        raise StorageError(
            f"{job.folder}: missing on node {socket.gethostname()}: set datasets.store to storage that all nodes share"
        )
    return pack_shard(loader, job, lambda: None)


class RayCluster:
    """Ray actors, each used by one member at a time, with at most one call at a time."""

    def __init__(
        self,
        num_slots: int,
        cpus_per_member: int,
        gpus_per_member: float,
        duties: Callable[[], Duties] = worker_duties,
        *,
        nodes_change: bool = False,
    ) -> None:
        """`num_slots` members run at once, fewer while nodes drain; `nodes_change`: nodes may join, leave and drain."""
        self.num_slots = num_slots
        self.is_local = not nodes_change
        self._nodes_change, self._looked_s = nodes_change, 0.0
        self._head: Head | None = None
        self._resources = {"num_cpus": cpus_per_member, "num_gpus": gpus_per_member}
        self._duties = duties
        self._actors: dict[str, Any] = {}
        self._idle: list[Any] = []
        self._calls: dict[Any, str] = {}
        # After a member ran out of memory, fewer run at once.
        self._most = num_slots
        # The kernel's count at the last two looks, `_DEATH_TOLD_S` apart.
        self._oom_kills, self._counted_s = (oom_kills(),) * 2, 0.0

    def warm_up(self, num_members: int, num_threads: int) -> None:
        """Starts actors for members to come, and makes them load what they need; returns at once."""
        for _ in range(min(num_members, self.num_slots)):
            self._idle.append(self._new())
            self._idle[-1].warm_up.remote(num_threads)

    def acquire(self, member: str) -> None:
        """Assigns the member an idle actor, or starts one."""
        self._actors[member] = self._idle.pop() if self._idle else self._new()

    def leaving(self) -> frozenset[str]:
        """Returns the members on draining nodes, which should stop; cheap enough to call often."""
        if not self._nodes_change or time.monotonic() - self._looked_s < LOOK_EVERY_S or not self._look_at_head():
            return frozenset()
        self._looked_s = time.monotonic()
        with lost_as_such():
            gone_soon = leaving_nodes()
            asked = int(self._resources["num_cpus"]), self._resources["num_gpus"]
            staying = [node for node in living_nodes() if node.name not in gone_soon]
            # At least one, which waits for a node to join.
            self.num_slots = min(self._most, count_slots(staying, *asked, least=1))
            if not gone_soon:
                return frozenset()
            for actor in [actor for actor in self._idle if node_of(actor) in gone_soon]:
                self._idle.remove(actor)
                _kill(actor)
            return frozenset(member for member, actor in self._actors.items() if node_of(actor) in gone_soon)

    def release(self, member: str) -> None:
        """Makes the actor of a member without a running call idle, so that another member can use it."""
        self._idle.append(self._actors.pop(member))

    def discard(self, member: str) -> None:
        """Ends the member's actor, even during a call; does nothing if there is none."""
        actor = self._actors.pop(member, None)
        if actor is not None:
            self._calls = {call: of for call, of in self._calls.items() if of != member}
            _kill(actor)

    def end_idle(self) -> None:
        """Ends idle actors, whose resources others may want on a shared cluster."""
        while self._idle:
            _kill(self._idle.pop())

    def run_stage(self, spec: StageSpec) -> None:
        """Starts a stage on the actor of `spec.member`."""
        self._calls[self._actors[spec.member].run_stage.remote(spec)] = spec.member

    def predict(self, spec: PredictSpec) -> None:
        """Starts the member's predictions on its actor."""
        self._calls[self._actors[spec.member].predict.remote(spec)] = spec.member

    def stop(self, member: str) -> None:
        """Stops the member's running stage or prediction at its next step; returns at once."""
        actor = self._actors[member]
        if self._nodes_change and not node_of(actor):
            # The actor waits for a node, perhaps forever, and has nothing to save.
            _kill(actor)
        else:
            actor.stop.remote()

    def poll(self, timeout_s: float) -> Sequence[Completed]:
        """Waits until a call ends, at most `timeout_s`; raises ClusterLost if the cluster is gone."""
        import ray

        if not self._calls:
            return ()
        self._look_at_head()
        if time.monotonic() - self._counted_s > _DEATH_TOLD_S:
            self._oom_kills, self._counted_s = (self._oom_kills[1], oom_kills()), time.monotonic()
        with lost_as_such():
            ray.wait(list(self._calls), timeout=timeout_s)
            ready, _ = ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0)
            num_running = len(self._calls)
            return [Completed(self._calls.pop(call), self._outcome(call, num_running)) for call in ready]

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

    def _new(self) -> Any:
        import ray

        # Three threads: one for the stage, one for `warm_up`, which may wait for the stage, and one for `stop`.
        actor: Any = ray.remote(MemberActor)
        options = actor.options(max_restarts=0, max_concurrency=3, **self._resources)
        return options.remote(self._duties)

    def _outcome(self, call: Any, num_running: int) -> Outcome:
        import ray
        from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

        try:
            outcome: Outcome = ray.get(call)
        except (RayActorError, WorkerCrashedError, NodeDiedError, OutOfMemoryError) as error:
            # If the head is gone too, the driver's next call to Ray would hang until Ray ends this process.
            while not self._look_at_head():
                time.sleep(LOOK_EVERY_S)
            if isinstance(error, OutOfMemoryError) or (not self._nodes_change and oom_kills() > self._oom_kills[0]):
                return self._out_of_memory(num_running)
            return Lost(first_line(error), announced=isinstance(error, RayActorError) and error.preempted)
        except RayTaskError as error:
            return failure_of(error)
        return outcome

    def _out_of_memory(self, num_running: int) -> Outcome:
        """Makes fewer members run at once; with one alone, repeating it unchanged would end in the same way."""
        why = f"it was killed because memory ran out (the limit here is {size(memory_limit())})"
        if num_running > 1:
            self.num_slots = self._most = max(1, min(self.num_slots, num_running) - 1)
            return Lost(f"{why}; from now on at most {counted(self.num_slots, 'member')} at once")
        remedy = "set optimizer.micro_batch, lower optimizer.batch_size or model.width, or raise the limit"
        return Failure("OutOfMemory", f"{why} though nothing ran beside it: {remedy}", "", retryable=False)


def _kill(actor: Any) -> None:
    import ray

    ray.kill(actor)
