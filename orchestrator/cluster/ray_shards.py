"""Packs the shards of datasets as Ray tasks, on the CPUs of a cluster."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from orchestrator.cluster.interface import Unfit
from orchestrator.cluster.preflight import Needs, unfit_to_pack
from orchestrator.cluster.ray_nodes import here, living_nodes, usable_nodes
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
            with attached(self._settings):
                yield from self._packed(loader, first, jobs, packed)

    def _packed(
        self, loader: Loader, first: ShardJob, others: Iterator[ShardJob], packed: Callable[[int], None]
    ) -> Iterator[PackedShard]:
        import ray
        from ray.exceptions import RayError, RayTaskError

        code, jobs = code_digest(), itertools.chain([first], others)
        await_room(1, 0, self._settings.wait_s, "packing images", free=True)
        preflight = Preflight(Needs(code, first.folder, "datasets.store"))
        nodes = preflight.require([node for node in living_nodes() if node.cpus >= 1])

        def start(job: ShardJob) -> Any:
            task: Any = ray.remote(_pack_shard).options(num_cpus=1, **usable_nodes(preflight.left_out))
            return task.remote(shared, job, code)

        # Two tasks a CPU, so that the next is ready when one is done. Only names go out and sizes come back, no pixels.
        most = 2 * max(1, math.floor(sum(node.cpus for node in nodes)))
        try:
            shared = ray.put(loader)
            waiting = {start(job): job for job in itertools.islice(jobs, most)}
            while waiting:
                (done, *_), _ = ray.wait(list(waiting), num_returns=1)
                job = waiting.pop(done)
                shard: PackedShard | Unfit = ray.get(done)
                if isinstance(shard, Unfit):
                    # A node that has joined since.
                    preflight.refused(shard)
                    preflight.require_some([node for node in living_nodes() if node.cpus >= 1])
                    waiting[start(job)] = job
                    continue
                for other in itertools.islice(jobs, 1):
                    waiting[start(other)] = other
                packed(len(job.rows))
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


def _pack_shard(loader: Loader, job: ShardJob, code: str) -> PackedShard | Unfit:
    """Packs one shard, on any node that can."""
    if unfit := unfit_to_pack(job.folder, code):
        return replace(unfit, node_id=here().node_id)
    return pack_shard(loader, job, lambda: None)
