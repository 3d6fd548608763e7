"""Looks at the nodes of a Ray cluster, one task on each, and keeps which of them members may use."""

import logging
import time
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from orchestrator.cluster.interface import Unfit
from orchestrator.cluster.preflight import Needs, inspect, misfit, none_left, remark
from orchestrator.cluster.ray_nodes import Node, living_nodes
from orchestrator.cluster.ray_session import first_line
from workers.storage import TEMPORARY_PREFIX

# A node's first worker takes seconds to start, more on a busy machine; a shared file system may show a file late.
_ANSWER_S, _SEEN_S = 40.0, 3.0
_PAUSE_S = 0.2
_log = logging.getLogger(__name__)


@cache
def _say_once(line: str) -> None:
    _log.warning("%s", line)


class Preflight:
    """Knows of each node whether it fits; those that join are looked at while members run elsewhere."""

    def __init__(self, needs: Needs | None) -> None:
        """With `needs` None every node fits, until `leave_out` is called."""
        self._needs = needs
        self._here = inspect(None, "", needs.stores) if needs else {}
        self._asked: dict[str, tuple[Any, float]] = {}
        self._fits: set[str] = set()
        self._misfits: dict[str, tuple[Node, Unfit]] = {}

    @property
    def left_out(self) -> dict[str, str]:
        """Returns a line for each node that is not used, by Ray's id."""
        return {name: f"left out: node {node}: {unfit.reason}" for name, (node, unfit) in self._misfits.items()}

    def leave_out(self, node: Node, unfit: Unfit) -> None:
        """Uses the node no more."""
        self._misfits[node.name] = node, unfit
        self._fits.discard(node.name)
        _say_once(self.left_out[node.name])

    def refused(self, unfit: Unfit) -> None:
        """Leaves out the node whose worker has said that it does not fit."""
        for node in living_nodes():
            if node.name == unfit.node_id:
                self.leave_out(node, unfit)

    def fitting(self, nodes: Sequence[Node], wait_s: float = 0.0) -> list[Node]:
        """Returns those of `nodes` that fit, as far as is known after waiting `wait_s`; looks at new ones."""
        if self._needs is None:
            return [node for node in nodes if node.name not in self._misfits]
        until = time.monotonic() + wait_s
        for node in nodes:
            if node.name not in self._fits | self._misfits.keys() | self._asked.keys():
                self._asked[node.name] = _ask(self._needs, node), time.monotonic() + _ANSWER_S
        while waiting := [node for node in nodes if node.name in self._asked]:
            for node in waiting:
                self._hear(node, self._needs)
            if time.monotonic() >= until:
                break
            time.sleep(_PAUSE_S)
        return [node for node in nodes if node.name in self._fits]

    def require(self, nodes: Sequence[Node]) -> list[Node]:
        """Returns the nodes that fit, after having looked at all of them; raises as `require_some`."""
        fitting = self.fitting(nodes, wait_s=_ANSWER_S + _SEEN_S)
        self.require_some(nodes)
        return fitting

    def require_some(self, nodes: Collection[Node]) -> None:
        """Raises ConfigError, or StorageError, if all `nodes` are left out; there may be none for the moment."""
        unfit = dict(self._misfits[node.name] for node in nodes if node.name in self._misfits)
        if nodes and len(unfit) == len(nodes):
            raise none_left({str(node): why for node, why in unfit.items()})

    def _hear(self, node: Node, needs: Needs) -> None:
        """Judges a node whose task has ended, or has not for too long."""
        import ray
        from ray.exceptions import GetTimeoutError, RayError

        call, give_up = self._asked[node.name]
        ready, _ = ray.wait([call], timeout=0)
        if not ready and time.monotonic() < give_up:
            return
        del self._asked[node.name]
        try:
            found = ray.get(call, timeout=0)
        except GetTimeoutError:
            self.leave_out(node, Unfit(f"no answer in {_ANSWER_S:.0f} s: look at its load and at Ray's logs there"))
        except RayError as error:
            said = next((line for line in str(error).splitlines()[::-1] if "Error: " in line), first_line(error))
            self.leave_out(
                node, Unfit(f"no worker of Septet starts there ({said.strip()}): install the same Septet there")
            )
        else:
            found["seen"] = not found["probe"] and _seen(needs, node)
            if unfit := misfit(found, self._here, needs):
                self.leave_out(node, unfit)
                return
            self._fits.add(node.name)
            if said := remark(found, self._here):
                _say_once(f"node {node}: {said}")


def _ask(needs: Needs, node: Node) -> Any:
    """Starts a look at `node`; Ray runs it there and nowhere else, and not again."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    strategy = NodeAffinitySchedulingStrategy(node.name, soft=False)
    task: Any = ray.remote(inspect).options(num_cpus=0, max_retries=0, scheduling_strategy=strategy, name="preflight")
    return task.remote(_probe(needs, node), node.name, needs.stores)


def _probe(needs: Needs, node: Node) -> Path:
    return needs.folder / f"{TEMPORARY_PREFIX}node-{node.name}"


def _seen(needs: Needs, node: Node) -> bool:
    """Returns whether this machine sees what the node wrote, and deletes it."""
    probe, until = _probe(needs, node), time.monotonic() + _SEEN_S
    while not probe.exists() and time.monotonic() < until:
        time.sleep(_PAUSE_S)
    is_there = probe.exists()
    probe.unlink(missing_ok=True)
    return is_there
