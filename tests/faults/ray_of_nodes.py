"""A Ray cluster of several nodes on this machine, in a process of its own, as a user's own would be.

`python ray_of_nodes.py NODES [FOLDER]` prints the address once NODES of one CPU each are there beside a head of none;
FOLDER takes Ray's files. Then it prints `done` for each line on stdin: `replace N` has the node of that number, modulo
how many there are, die at once with all on it, and another one join; `spare ID` does so with a node of another id. It
ends with stdin.
"""

import sys

from ray.cluster_utils import Cluster

_SMALL = {"object_store_memory": 80 * 1024 * 1024}


def main(num_nodes: int, *folder: str) -> None:
    head = {"num_cpus": 0, "include_dashboard": False, **_SMALL}
    cluster = Cluster(initialize_head=True, head_node_args=head | dict(zip(("temp_dir",), folder, strict=False)))
    nodes = [cluster.add_node(num_cpus=1, **_SMALL) for _ in range(num_nodes)]
    _say(cluster.address)
    for line in sys.stdin:
        order, _, number = line.strip().partition(" ")
        if order in ("replace", "spare"):
            if order == "replace":
                index = int(number) % len(nodes)
            else:
                index = next(index for index, node in enumerate(nodes) if node.node_id != number)
            cluster.remove_node(nodes.pop(index), allow_graceful=False)
            nodes.append(cluster.add_node(num_cpus=1, **_SMALL))
        _say("done")
    cluster.shutdown()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
