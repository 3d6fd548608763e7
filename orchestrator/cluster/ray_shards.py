"""Packs the shards of datasets, and does other work that is the same anywhere, as Ray tasks on a cluster."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from orchestrator.cluster.interface import Unfit
from orchestrator.cluster.preflight import Needs, unfit_to_pack
from orchestrator.cluster.ray_nodes import here, living_nodes, slots_of, usable_nodes
from orchestrator.cluster.ray_preflight import Preflight
from orchestrator.cluster.ray_session import attached, first_line
from orchestrator.cluster.ray_waiting import await_room
from workers.data.sources import Loader
from workers.data.store import PackedShard, PackingThreads, ShardJob, ShardRunner, pack_shard
from workers.errors import ClusterLost, SeptetError
from workers.numerics import code_digest

if TYPE_CHECKING:
    from orchestrator.config import ClusterConfig


def shard_runner(settings: "ClusterConfig") -> ShardRunner:
    """Returns what packs datasets: the CPUs of the cluster at `settings.address`, else threads of this process.

    A local Ray takes seconds to start and has the same CPUs.
    """
    return PackingThreads() if settings.address is None else RayShards(settings)


class RayShards:
    """A `ShardRunner` of Ray tasks, one for each CPU of the cluster. Joins the cluster when there is a shard to pack.

    Ray runs a lost task again, unlike a lost stage: a shard takes seconds and is the same wherever it is packed.
    """

    def __init__(self, settings: "ClusterConfig") -> None:
        self._settings = settings

    def run(self, loader: Loader, jobs: Iterator[ShardJob], packed: Callable[[int], None]) -> Iterator[PackedShard]:
        first = next(jobs, None)
        if first is not None:
            needs, every = Needs(code_digest(), first.folder, "datasets.store"), itertools.chain([first], jobs)
            for job, shard in run_tasks(self._settings, needs, _pack_shard, loader, every):
                packed(len(job.rows))
                yield shard


def run_tasks(
    settings: "ClusterConfig", needs: Needs, function: Any, given: Any, jobs: Iterator[Any]
) -> Iterator[tuple[Any, Any]]:
    """Yields each job and `function(given, job, code)`, as they end, of tasks that have the room that `needs` say.

    The results are small, and the same on every node; or Unfit.
    """
    with attached(settings):
        import ray
        from ray.exceptions import RayError, RayTaskError

        asked = needs.room
        await_room(*asked, settings.wait_s, "work on images", free=True)
        preflight, room = Preflight(needs), dict(zip(("num_cpus", "num_gpus"), asked, strict=True))
        nodes = preflight.require([node for node in living_nodes() if slots_of(node, *asked)])

        def start(job: Any) -> Any:
            task: Any = ray.remote(function).options(**room, **usable_nodes(preflight.left_out))
            # In the call, where it has room: a node that has just joined may take the owner of an object for dead.
            return task.remote(given, job, needs.code)

        # Two tasks a slot, so that the next is ready when one is done.
        most = 2 * sum(slots_of(node, *asked) for node in nodes)
        try:
            waiting = {start(job): job for job in itertools.islice(jobs, most)}
            while waiting:
                (done, *_), _ = ray.wait(list(waiting), num_returns=1)
                job = waiting.pop(done)
                result = ray.get(done)
                if isinstance(result, Unfit):
                    # A node that has joined since.
                    preflight.refused(result)
                    preflight.require_some([node for node in living_nodes() if slots_of(node, *asked)])
                    waiting[start(job)] = job
                    continue
                for other in itertools.islice(jobs, 1):
                    waiting[start(other)] = other
                yield job, result
        except RayTaskError as error:
            # Drops Ray's page of traceback.
            if isinstance(error.cause, SeptetError):
                raise error.cause from error
            raise
        except RayError as error:
            raise ClusterLost(
                f"the Ray cluster lost a task ({first_line(error)}); run the same command again"
            ) from error


def _pack_shard(loader: Loader, job: ShardJob, code: str) -> PackedShard | Unfit:
    """Packs one shard, on any node that can."""
    if unfit := unfit_to_pack(job.folder, code):
        return replace(unfit, node_id=here().node_id)
    return pack_shard(loader, job, lambda: None)
