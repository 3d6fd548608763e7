"""Counts what the nodes of a Ray cluster offer, and finds those that are draining."""

import math
import os
import socket
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from orchestrator.cluster.interface import Where
from orchestrator.cluster.preflight import GPUS
from orchestrator.text import counted
from workers.errors import ClusterLost, ConfigError

# A spot machine ends two minutes (AWS) to 30 s (Azure, GCP) after its notice. A look takes 10 ms.
LOOK_EVERY_S = 1.0
_CONNECT_S = 2.0
# A client's first bytes (RFC 9113), with an empty frame of settings, and the type of the frame that a server answers.
_HTTP2_OPENING, _HTTP2_SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0", b"\4"
_PATIENCE_S = 25.0


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
            *(node["Resources"].get(name, 0) for name in ("CPU", "GPU")),
            *(node[name] for name in ("NodeID", "NodeManagerHostname", "NodeManagerAddress")),
            *(node["Resources"].get(name, math.inf) for name in ("memory",)),
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


def _connects(address: str, opening: bytes = b"", answer: bytes = b"") -> bool:
    """Returns whether a server takes a connection, and whether its answer to `opening` has `answer` at byte 3."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S) as connection:
            connection.sendall(opening)
            return not answer or connection.recv(4)[3:] == answer
    except OSError:
        return False


def await_head(address: str, wait_s: float = 10.0) -> None:
    """Waits for a cluster's head that may be starting; raises ConnectionError if none answers in `wait_s` seconds.

    A gRPC server answers HTTP/2's opening; one with TLS need only take the connection.
    """
    until = time.monotonic() + wait_s
    opening = () if os.environ.get("RAY_USE_TLS", "0") not in ("", "0") else (_HTTP2_OPENING, _HTTP2_SETTINGS)
    while not _connects(address, *opening):
        if time.monotonic() > until:
            raise ConnectionError(f"nothing at {address} answered as Ray does in {wait_s:.0f} s")
        time.sleep(LOOK_EVERY_S)


class Head:
    """Watches whether the cluster's head answers. Without it Ray waits a minute and then ends this process silently."""

    def __init__(
        self,
        address: str,
        connects: Callable[[str], bool] = _connects,
        clock: Callable[[], float] = time.monotonic,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._address, self._connects, self._clock, self._patience_s = address, connects, clock, patience_s
        self._looked_s, self._heard_s = -math.inf, clock()

    def look(self) -> bool:
        """Asks the head, at most once a second, and returns whether it answered last time.

        Raises:
            ClusterLost: it has not answered for longer than a head takes to restart.
        """
        now = self._clock()
        if now - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = now
            if self._connects(self._address):
                self._heard_s = now
            elif now - self._heard_s > self._patience_s:
                raise ClusterLost(f"the head of the Ray cluster at {self._address} is gone; run the same command again")
        return self._heard_s == self._looked_s


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
