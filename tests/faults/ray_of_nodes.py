"""A Ray cluster of several nodes on this machine, as a process of its own that takes orders.

Prints the address; then, for each line on stdin, `drain NODE` (a spot notice), `remove NODE` (a machine that is gone)
or `end`, prints `done`. The head has no CPUs, each of the nodes one.
"""

import sys
import time
from typing import Any

import ray
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

_SMALL = {"object_store_memory": 80 * 1024 * 1024}
_NOTICE_S = 120.0


def _drain(address: str, name: str) -> None:
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline_ms = int((time.time() + _NOTICE_S) * 1000)
    accepted, why = ray._raylet.GcsClient(address=address).drain_node(name, reason, "a test's", deadline_ms)
    assert accepted, why


def main(num_nodes: int) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **_SMALL})
    nodes: dict[str, Any] = {}
    for _ in range(num_nodes):
        node = cluster.add_node(num_cpus=1, **_SMALL)
        nodes[node.node_id] = node
    _say(cluster.address)
    for line in sys.stdin:
        order, _, name = line.strip().partition(" ")
        if order == "drain":
            _drain(cluster.address, name)
        elif order == "remove":
            cluster.remove_node(nodes.pop(name), allow_graceful=False)
        elif order == "end":
            break
        _say("done")
    cluster.shutdown()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
