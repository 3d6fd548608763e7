"""A Ray cluster of several nodes on this machine, as a process of its own that takes orders.

Prints the address; then, for each line on stdin, prints `done`: `drain` (a spot notice) and `remove` (a machine that is
gone) are for a node on which a member trains, `end` for all. The head has no CPUs, each of the nodes one.
"""

import sys
import time
from typing import Any

import ray
from ray._private.state import actors
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

_SMALL = {"object_store_memory": 80 * 1024 * 1024}
_NOTICE_S = 120.0


def _drain(address: str, name: str) -> None:
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline_ms = int((time.time() + _NOTICE_S) * 1000)
    accepted, why = ray._raylet.GcsClient(address=address).drain_node(name, reason, "a test's", deadline_ms)
    assert accepted, why


def _busy_node() -> str:
    members = [one for one in actors().values() if (one["ActorClassName"], one["State"]) == ("MemberActor", "ALIVE")]
    return str(members[0]["Address"]["NodeID"])


def main(num_nodes: int) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **_SMALL})
    nodes: dict[str, Any] = {}
    for _ in range(num_nodes):
        node = cluster.add_node(num_cpus=1, **_SMALL)
        nodes[node.node_id] = node
    _say(cluster.address)
    cluster.connect()
    for line in sys.stdin:
        order = line.strip()
        if order == "drain":
            _drain(cluster.address, _busy_node())
        elif order == "remove":
            cluster.remove_node(nodes.pop(_busy_node()), allow_graceful=False)
        elif order == "end":
            break
        _say("done")
    ray.shutdown()
    cluster.shutdown()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
