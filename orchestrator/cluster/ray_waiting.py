"""Waits for a node with room, where one may join or become free."""

import json
import logging
import time
from typing import Any

from orchestrator.cluster.ray_head import LOOK_EVERY_S
from orchestrator.cluster.ray_nodes import count_slots, living_nodes, lost_as_such, slots_of
from orchestrator.text import counted
from workers.errors import ConfigError

# Ray names a node's type so where nothing adds nodes.
_MADE_UP = "node_"
_log = logging.getLogger(__name__)


def grows() -> bool:
    """Returns whether an autoscaler may add nodes to the cluster, as far as it tells.

    Both of Ray's autoscalers give the nodes that they started, the head too, a type that their configuration names.
    """
    import ray
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.autoscaler.v2.utils import is_autoscaler_v2
    from ray.experimental.internal_kv import _internal_kv_get

    with lost_as_such():
        if is_autoscaler_v2(fetch_from_server=True):
            found = get_cluster_status(ray.get_runtime_context().gcs_address)
            types = {node.ray_node_type_name for node in (*found.active_nodes, *found.idle_nodes)}
        else:
            status = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or b"{}")
            types = {*(status.get("autoscaler_report", {}).get("node_type_mapping") or {}).values()}
    return any(one and not one.startswith(_MADE_UP) for one in types)


def may_join(wait_s: float | None) -> bool:
    """Returns whether nodes are to be expected: they are waited for, for a time, or an autoscaler adds them."""
    return wait_s is not None or grows()


def await_room(cpus: int, gpus: float, wait_s: float | None, what: str = "a member", *, free: bool = False) -> None:
    """Returns once a node is large enough for `what`, and, with `free`, has room for it beside other jobs.

    Meanwhile a task that asks for the same is in Ray's queue, where its autoscaler sees it.

    Args:
        cpus: CPUs that `what` asks for.
        gpus: GPUs that it asks for.
        wait_s: the longest wait in seconds; with None it has no end, but only an autoscaler's nodes are waited for.
        what: what is to start, for messages.
        free: whether it is to start at once.

    Raises:
        ConfigError: no node is large enough, and none is to be expected; or the wait is over.
    """
    import ray

    def is_able() -> bool:
        return any(slots_of(node, cpus, gpus) for node in living_nodes())

    able = is_able()
    left: dict[str, float] = ray.available_resources() if free else {}  # type: ignore[no-untyped-call]
    if able and not (free and left.get("CPU", 0) < cpus):
        return
    if not able and not may_join(wait_s):
        count_slots(living_nodes(), cpus, gpus)
    asked = f"{what} ({counted(cpus, 'CPU')}{f', {gpus:g} GPUs' if gpus else ''})"
    why = f"other jobs take all CPUs that {asked} needs" if able else f"no node of the cluster has room for {asked}"
    _log.warning("%s; waiting for one to %s; Ctrl-C ends it", why, "be free" if able else "join")
    task: Any = ray.remote(lambda: None)
    demand, began = task.options(num_cpus=cpus, num_gpus=gpus).remote(), time.monotonic()
    while not ray.wait([demand], timeout=LOOK_EVERY_S)[0] and (free or not is_able()):
        if wait_s is not None and time.monotonic() - began > wait_s:
            raise ConfigError(f"{why}, for {wait_s:g} s (cluster.wait_s): add a node, or run the same command later")
