"""Counts the members that this machine, or the cluster at an address, has room for, before anything begins."""

from typing import TYPE_CHECKING

from orchestrator.cluster.ray_nodes import Node, count_slots, living_nodes, local_gpus, slots_of
from orchestrator.cluster.ray_session import LOCAL_ENVIRONMENT, attached, available_cpus, environment
from orchestrator.cluster.ray_waiting import may_join
from orchestrator.text import counted
from workers.errors import ConfigError, some
from workers.numerics import capabilities

if TYPE_CHECKING:
    from orchestrator.config import ClusterConfig


def check_resources(settings: "ClusterConfig") -> int:
    """Returns how many members run at once, 0 if a node must join first. Called before anything on disk is touched.

    Raises:
        ConfigError: no node has room for a member and none is to be waited for, or the cluster does not answer.
    """
    asked = settings.cpus_per_member, settings.gpus_per_member
    if settings.address is None:
        if settings.kernels == "compiled" and not capabilities().compiled_kernels:
            raise ConfigError(
                "cluster.kernels=compiled: this machine lacks them: install a C compiler, then Septet again"
            )
        # Ray reads its settings when it is first imported, so they must be set before.
        with environment(LOCAL_ENVIRONMENT):
            nodes = [Node(available_cpus(), local_gpus() if settings.gpus_per_member else 0)]
    else:
        with attached(settings):
            nodes = living_nodes()
            if not any(slots_of(node, *asked) for node in nodes) and may_join(settings.wait_s):
                return 0
    return count_slots(nodes, *asked)


def survey_nodes(settings: "ClusterConfig") -> tuple[int, str]:
    """Returns how many members the cluster at `settings.address` has room for, and a line on its nodes.

    Raises:
        ConfigError: the cluster does not answer.
    """
    with attached(settings):
        nodes = living_nodes()
        joins = may_join(settings.wait_s)
    slots = {node: slots_of(node, settings.cpus_per_member, settings.gpus_per_member) for node in nodes}
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    line = f"cluster at {settings.address}: {counted(len(nodes), 'node')}, {cpus:g} CPUs, {gpus:g} GPUs"
    if small := [str(node) for node, count in slots.items() if not count]:
        line += f"; too small for a member: {some(small)}"
    if not any(slots.values()):
        line += "; a launch waits for a node to join" if joins else "; no launch can start"
    return sum(slots.values()), line
