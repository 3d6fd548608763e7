"""A Ray cluster of several nodes on this machine, in a process of its own, as a user's own would be.

`python ray_of_nodes.py NODES [FOLDER]` prints the address once NODES of one CPU each are there beside a head of none;
FOLDER takes Ray's files. Then it prints `done` for each line on stdin: `drain` (a spot notice) and `remove` (a machine
that is gone) are for a node on which a member trains; `replace N` has the node of that number, modulo how many there
are, die at once with all on it, and another one join. It ends with stdin.
"""

import sys
import time

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


def _busy_node(cluster: Cluster) -> str:
    if not ray.is_initialized():
        cluster.connect()
    members = [one for one in actors().values() if (one["ActorClassName"], one["State"]) == ("MemberActor", "ALIVE")]
    return str(members[0]["Address"]["NodeID"])


def main(num_nodes: int, *folder: str) -> None:
    head = {"num_cpus": 0, "include_dashboard": False, **_SMALL}
    cluster = Cluster(initialize_head=True, head_node_args=head | dict(zip(("temp_dir",), folder, strict=False)))
    nodes = [cluster.add_node(num_cpus=1, **_SMALL) for _ in range(num_nodes)]
    _say(cluster.address)
    for line in sys.stdin:
        order, _, number = line.strip().partition(" ")
        if order == "drain":
            _drain(cluster.address, _busy_node(cluster))
        elif order == "remove":
            busy = _busy_node(cluster)
            (gone,) = [node for node in nodes if node.node_id == busy]
            cluster.remove_node(gone, allow_graceful=False)
        elif order == "replace":
            cluster.remove_node(nodes.pop(int(number) % len(nodes)), allow_graceful=False)
            nodes.append(cluster.add_node(num_cpus=1, **_SMALL))
        _say("done")
    ray.shutdown()
    cluster.shutdown()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
