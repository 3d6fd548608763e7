"""Shows the nodes of a cluster that fit to whoever chooses how members train, and runs functions on them."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.cluster.interface import Machine
from orchestrator.cluster.preflight import Needs
from orchestrator.cluster.ray_nodes import Node, count_slots, idle_gpus, living_nodes, memory_to_ask, slots_of
from orchestrator.cluster.ray_preflight import Preflight
from orchestrator.cluster.ray_session import attached, first_line
from orchestrator.cluster.ray_waiting import await_room

if TYPE_CHECKING:
    from orchestrator.config import ClusterConfig

# Measuring takes seconds to minutes; a node whose CPUs another job has taken since would never begin.
_CALL_S = 1200.0
_log = logging.getLogger(__name__)


@contextmanager
def open_nodes(settings: "ClusterConfig", needs: Needs) -> Iterator["RayNodes"]:
    """Joins the cluster at `settings.address` for the length of the block and looks at its nodes.

    Raises:
        ConfigError: no node has room for a member or fits, or the cluster does not answer.
        StorageError: no node shares the storage.
    """
    assert settings.address is not None, "a local Ray has one node, this machine"
    with attached(settings):
        yield RayNodes(settings, needs)


class RayNodes:
    """The nodes that fit, as far as what they need is known; `settle` judges them again."""

    def __init__(self, settings: "ClusterConfig", needs: Needs) -> None:
        self._preflight, asked = Preflight(needs), (settings.cpus_per_member, settings.gpus_per_member)
        # A plan does not wait for a node to join.
        may_wait = needs.folder is None and not any(slots_of(node, *asked) for node in living_nodes())
        self._nodes: Sequence[Node] = () if may_wait else able_nodes(self._preflight, settings)
        self._asked = *asked, memory_to_ask(needs.member_bytes, self._nodes)
        self.idle_gpus = idle_gpus(settings.gpus_per_member, self._nodes)

    @property
    def machines(self) -> list[Machine]:
        """Returns the nodes; those with most free CPUs come first."""
        from ray._private.state import available_resources_per_node

        left: dict[str, dict[str, float]] = available_resources_per_node()  # type: ignore[no-untyped-call]
        free = {node: math.floor(left.get(node.name, {}).get("CPU", 0)) for node in self._nodes}
        return [
            Machine(
                str(node),
                (found := self._preflight.found(node))["processors"],
                math.floor(node.cpus),
                slots_of(node, *self._asked),
                found["bf16"],
                found["compiled_kernels"],
                partial(_call, node, free[node], self._asked[1]),
            )
            for node in sorted(self._nodes, key=lambda node: -free[node])
        ]

    def settle(self, needs: Needs) -> None:
        """Judges the nodes by what is chosen for them; raises as `open_nodes`."""
        self._preflight.settle(needs, self._nodes)
        self._preflight.require_some(self._nodes)


def able_nodes(preflight: Preflight, settings: "ClusterConfig") -> list[Node]:
    """Returns the nodes that fit and have room for a member; waits where one may join. Raises as `open_nodes`."""
    asked = settings.cpus_per_member, settings.gpus_per_member
    # First without a look at them: no node may be large enough.
    if settings.address is not None:
        await_room(*asked, settings.wait_s)
    nodes = living_nodes()
    count_slots(nodes, *asked)
    return preflight.require([node for node in nodes if slots_of(node, *asked)])


def _call(node: Node, num_cpus: int, num_gpus: float, function: Callable[..., Any], *given: Any) -> Any:
    """Runs `function` on the node, with the CPUs that are free there; None if it ends in an error or takes too long."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    strategy = NodeAffinitySchedulingStrategy(node.name, soft=False)
    options = {"num_cpus": num_cpus, "num_gpus": num_gpus, "max_retries": 0, "scheduling_strategy": strategy}
    task: Any = ray.remote(function)
    call = task.options(**options, name=f"placement {function.__name__}").remote(*given)
    try:
        if ray.wait([call], timeout=_CALL_S)[0]:
            return ray.get(call)
        why = f"no answer in {_CALL_S:.0f} s"
        ray.cancel(call, force=True)
    except RayError as error:
        why = first_line(error)
    _log.warning("node %s: nothing could be measured there (%s)", node, why)
    return None
