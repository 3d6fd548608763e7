"""Counts what the nodes of a Ray cluster offer, and finds those that are draining."""

import math
import os
import socket
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from orchestrator.cluster.interface import Where
from orchestrator.cluster.preflight import GPUS
from orchestrator.text import counted
from workers.errors import ClusterLost, ConfigError


@dataclass(frozen=True)
class Node:
    """One node of the cluster; `name` is Ray's id, `host` and `address` are of its machine.

    `memory` is in bytes, what Ray gives to tasks and actors that ask for some.
    """

    cpus: float
    gpus: float
    name: str = ""
    host: str = ""
    address: str = ""
    memory: float = field(default=math.inf, compare=False)

    def __str__(self) -> str:
        return f"{self.host} ({self.address})"


def count_slots(
    nodes: Sequence[Node], cpus_per_member: int, gpus_per_member: float, member_bytes: float = 0, least: int = 0
) -> int:
    """Returns how many members run at once, `least` if the nodes have room for fewer; `member_bytes` 0 asks for none.

    Raises:
        ConfigError: `least` is 0 and no node has room for a member; Ray would wait forever without a message.
    """
    slots = max(least, sum(slots_of(node, cpus_per_member, gpus_per_member, member_bytes) for node in nodes))
    if slots:
        return slots
    most_cpus = max((node.cpus for node in nodes), default=0)
    most_gpus = max((node.gpus for node in nodes), default=0)
    raise ConfigError(
        f"a member asks for {cpus_per_member} CPUs and {gpus_per_member:g} GPUs, but no node has more than "
        f"{most_cpus:g} CPUs and {most_gpus:g} GPUs: lower cluster.cpus_per_member or cluster.gpus_per_member"
    )


def slots_of(node: Node, cpus_per_member: int, gpus_per_member: float, member_bytes: float = 0) -> int:
    """Returns how many members `node` has room for."""
    by_cpu = math.floor(node.cpus / cpus_per_member)
    if member_bytes:
        by_cpu = min(by_cpu, math.floor(node.memory / member_bytes))
    if not gpus_per_member:
        return by_cpu
    if gpus_per_member >= 1:
        return min(by_cpu, math.floor(node.gpus / gpus_per_member))
    # Ray can allot a share of one GPU, never of two.
    return min(by_cpu, math.floor(node.gpus) * math.floor(1 / gpus_per_member + 1e-9))


def memory_to_ask(member_bytes: float, nodes: Collection[Node]) -> int:
    """Returns the bytes that a member asks Ray for: its estimate, or less, so that each of `nodes` holds one."""
    return math.floor(min([member_bytes, *(node.memory for node in nodes)]))


def idle_gpus(gpus_per_member: float, nodes: Collection[Node] | None = None) -> str:
    """Returns a line if `nodes`, or this machine, have GPUs that no member asks for; "" otherwise."""
    if gpus_per_member or (nodes is None and not any(GPUS.glob("*"))):
        # Ray is not loaded for this alone.
        return ""
    idle = local_gpus() if nodes is None else math.floor(sum(node.gpus for node in nodes))
    return f"{counted(idle, 'GPU')} idle: set cluster.gpus_per_member=1" if idle else ""


def living_nodes() -> list[Node]:
    """Returns the live nodes of the cluster that this process has joined."""
    import ray

    with lost_as_such():
        described: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [
        Node(
            cpus=node["Resources"].get("CPU", 0),
            gpus=node["Resources"].get("GPU", 0),
            name=node["NodeID"],
            host=node["NodeManagerHostname"],
            address=node["NodeManagerAddress"],
            memory=node["Resources"].get("memory", 0),
        )
        for node in described
        if node["Alive"]
    ]


def leaving_nodes() -> frozenset[str]:
    """Returns the names of draining nodes: after a spot notice, `ray drain-node`, or SIGTERM to `ray start --block`.

    Ray starts nothing new on them, and ends a node when it is idle, or at the notice's deadline.
    """
    from ray._private.state import state

    return frozenset(state.get_draining_nodes())


def here() -> Where:
    """Returns where this worker of Ray runs."""
    import ray
    from ray.util import get_node_ip_address

    context, address = ray.get_runtime_context(), get_node_ip_address()  # type: ignore[no-untyped-call]
    gpus = ",".join(context.get_accelerator_ids().get("GPU", []))
    device = f"GPU {gpus}" if gpus else "CPU"
    return Where(socket.gethostname(), address, os.getpid(), device, context.get_node_id())


def usable_nodes(left_out: Collection[str]) -> dict[str, Any]:
    """Returns the options with which Ray spreads actors or tasks over all nodes but those of these names."""
    others = {"label_selector": {"ray.io/node-id": f"!in({','.join(sorted(left_out))})"}} if left_out else {}
    return {"scheduling_strategy": "SPREAD", **others}


def local_gpus() -> int:
    """Returns the number of GPUs that Ray would find, without starting it."""
    from ray._private.accelerators import get_accelerator_manager_for_resource

    manager = get_accelerator_manager_for_resource("GPU")
    return manager.get_current_node_num_accelerators() if manager else 0


@contextmanager
def lost_as_such() -> Iterator[None]:
    """Turns Ray's errors for a cluster that is gone into ClusterLost."""
    try:
        yield
    except cluster_errors() as error:
        raise ClusterLost(f"the Ray cluster is gone ({type(error).__name__}); run the same command again") from error


def cluster_errors() -> tuple[type[Exception], ...]:
    """Returns the errors that Ray raises when a cluster is gone."""
    from ray.exceptions import LocalRayletDiedError, RaySystemError, RpcError

    return (LocalRayletDiedError, RaySystemError, RpcError, ConnectionError)
