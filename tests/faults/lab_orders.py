"""Orders to a Ray cluster, one for each line on stdin: `alive`, `drain NODE`, `occupy N`, `free`. Answers `done …`.

`alive` is answered with the nodes' names; `occupy` takes N CPUs as another's job does, until `free`.
"""

import sys
import time

import ray
from ray.core.generated import autoscaler_pb2
from ray.core.generated.gcs_pb2 import GcsNodeInfo

_NOTICE_S = 120.0


@ray.remote(num_cpus=1)
class Other:
    def there(self) -> None:
        pass


def drain(client: "ray._raylet.GcsClient", name: str) -> None:
    """Gives a node a spot machine's notice."""
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline_ms = int((time.time() + _NOTICE_S) * 1000)
    accepted, why = client.drain_node(name, reason, "a test's", deadline_ms)
    assert accepted, why


def main(address: str) -> None:
    client = ray._raylet.GcsClient(address=address)
    taken = []
    for line in sys.stdin:
        order, _, given = line.strip().partition(" ")
        nodes = [one for one in client.get_all_node_info().values() if one.state == GcsNodeInfo.ALIVE]
        names = {one.node_manager_hostname: one.node_id.hex() for one in nodes}
        if order == "drain":
            drain(client, names[given])
        elif order == "occupy":
            if not ray.is_initialized():
                ray.init(address=address, log_to_driver=False, configure_logging=False)
            taken += [Other.remote() for _ in range(int(given))]
            ray.get([one.there.remote() for one in taken])
        elif order == "free":
            while taken:
                ray.kill(taken.pop())
        sys.stdout.write(f"done {' '.join(names)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
