"""A Ray cluster of several nodes on this machine, in a process of its own, as a user's own would be.

`python nodes_elsewhere.py FOLDER NODES` prints the address once NODES of one CPU each are there beside a head of none.
For each line on stdin, which is a number, that node (modulo how many there are) dies at once with all on it, another
one joins, and a line comes back. It ends with stdin.
"""

import sys

from ray.cluster_utils import Cluster

OBJECT_STORE_BYTES = 80 * 1024 * 1024


def main(folder: str, num_nodes: str) -> None:
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": OBJECT_STORE_BYTES, "temp_dir": folder},
    )
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE_BYTES) for _ in range(int(num_nodes))]
    answer(cluster.address)
    for line in sys.stdin:
        cluster.remove_node(nodes.pop(int(line) % len(nodes)), allow_graceful=False)
        nodes.append(cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE_BYTES))
        answer("another node has joined")
    cluster.shutdown()


def answer(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
