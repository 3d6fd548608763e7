"""Predicts blocks of images on the nodes of a cluster: Ray actors, each with the nets in its memory."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from orchestrator.cluster.preflight import Needs
from orchestrator.cluster.ray_machines import able_nodes
from orchestrator.cluster.ray_nodes import count_slots, usable_nodes
from orchestrator.cluster.ray_preflight import Preflight
from orchestrator.cluster.ray_session import attached, first_line
from workers.errors import ClusterLost, SeptetError
from workers.numerics import code_digest

if TYPE_CHECKING:
    from orchestrator.config import ClusterConfig

Block = TypeVar("Block")
Found = TypeVar("Found")
# An actor has its next block when it ends one.
_AHEAD = 2
# A block is the same wherever it is predicted; one that ends every process must not do so for ever.
_MOST_LOSSES = 3


def predict_blocks(
    settings: "ClusterConfig", needs: Needs, start: Callable[[], Callable[[Block], Found]], blocks: Iterable[Block]
) -> Iterator[tuple[Block, Found]]:
    """Yields each block, and what the function that `start` returns makes of it, in the order in which they end.

    Each process calls `start` once. At most two blocks a process are under way.

    Raises:
        ConfigError: no node has room or fits, or the cluster does not answer.
        ClusterLost: the cluster is gone, or a block was lost too often.
        SeptetError: an error of `start` or of its function.
    """
    left = iter(blocks)
    with attached(settings):
        import ray
        from ray.exceptions import RayError, RayTaskError

        preflight, asked = Preflight(needs), (settings.cpus_per_member, settings.gpus_per_member)
        num_actors = count_slots(able_nodes(preflight, settings), *asked)
        again = {"max_restarts": _MOST_LOSSES, "max_task_retries": _MOST_LOSSES}
        remote: Any = ray.remote(_Predictor)
        remote = remote.options(num_cpus=asked[0], num_gpus=asked[1], **again, **usable_nodes(preflight.left_out))
        running: dict[Any, tuple[Any, Block]] = {}

        def give(actor: Any) -> None:
            for block in islice(left, 1):
                running[actor.predict.remote(block)] = actor, block

        try:
            for block in islice(left, num_actors):
                actor = remote.remote(start, needs.code)
                running[actor.predict.remote(block)] = actor, block
            for actor in [actor for actor, _ in running.values()] * (_AHEAD - 1):
                give(actor)
            while running:
                (done, *_), _ = ray.wait(list(running), num_returns=1)
                actor, block = running.pop(done)
                found: Found = ray.get(done)
                give(actor)
                yield block, found
        except RayTaskError as error:
            # Drops Ray's page of traceback.
            if isinstance(error.cause, SeptetError):
                raise error.cause from error
            raise
        except RayError as error:
            raise ClusterLost(
                f"the Ray cluster lost a block ({first_line(error)}); run the same command again"
            ) from error


class _Predictor(Generic[Block, Found]):
    """An actor; it starts what predicts with its first block, so that errors are told like those of blocks."""

    def __init__(self, start: Callable[[], Callable[[Block], Found]], code: str) -> None:
        self._start, self._code = start, code
        self._predict: Callable[[Block], Found] | None = None

    def predict(self, block: Block) -> Found:
        if self._predict is None:
            if code_digest() != self._code:
                raise ClusterLost("a node has other code of workers/: install the same Septet there, and run it again")
            self._predict = self._start()
        return self._predict(block)
