"""Packs the shards of datasets as Ray tasks, on the CPUs of a cluster."""

import itertools
import math
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from orchestrator.cluster.preflight import Needs
from orchestrator.cluster.ray_nodes import living_nodes, usable_nodes
from orchestrator.cluster.ray_preflight import Preflight
from orchestrator.cluster.ray_session import attached, first_line
from workers.data.sources import Loader
from workers.data.store import PackedShard, PackingThreads, ShardJob, ShardRunner, pack_shard
from workers.errors import ClusterLost, SeptetError, StorageError
from workers.numerics import code_digest

if TYPE_CHECKING:
    from orchestrator.config import ClusterConfig


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
        if first is not None:
            with attached(self._address):
                yield from self._packed(loader, first, jobs, packed)

    def _packed(
        self, loader: Loader, first: ShardJob, others: Iterator[ShardJob], packed: Callable[[int], None]
    ) -> Iterator[PackedShard]:
        import ray
        from ray.exceptions import RayError, RayTaskError

        preflight, jobs = (
            Preflight(Needs(code_digest(), first.folder, "datasets.store")),
            itertools.chain([first], others),
        )
        nodes = preflight.require([node for node in living_nodes() if node.cpus >= 1])
        task: Any = ray.remote(_pack_shard).options(num_cpus=1, **usable_nodes(preflight.left_out))
        # Two tasks a CPU, so that the next is ready when one is done. Only names go out and sizes come back, no pixels.
        most = 2 * max(1, math.floor(sum(node.cpus for node in nodes)))
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
