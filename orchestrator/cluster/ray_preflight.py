"""Looks at the nodes of a Ray cluster, one task on each, and keeps which of them members may use."""

import logging
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from orchestrator.cluster.interface import Unfit
from orchestrator.cluster.preflight import Needs, inspect, misfit, none_left, remark
from orchestrator.cluster.ray_nodes import Node, living_nodes
from orchestrator.cluster.ray_session import first_line
from workers.storage import TEMPORARY_PREFIX

# A node's first worker takes seconds to start, more on a busy machine; a shared file system may show a file late. If
# some nodes fit, the others are waited for only a while, and are used once they answer.
_ANSWER_S, _SEEN_S, _ENOUGH_S = 40.0, 3.0, 10.0
_PAUSE_S = 0.2
_log = logging.getLogger(__name__)


@cache
def _say_once(line: str) -> None:
    _log.warning("%s", line)


@dataclass
class _Look:
    """A task that looks at a node and writes `probe`; the times are monotonic. `seen_by` is known when it has ended."""

    call: Any
    probe: Path | None
    give_up: float
    seen_by: float = 0.0


class Preflight:
    """Knows of each node whether it fits; those that join are looked at while members run elsewhere."""

    def __init__(self, needs: Needs | None) -> None:
        """With `needs` None every node fits, until `leave_out` is called."""
        self._needs = needs
        self._here = inspect(None, "", needs.stores) if needs else {}
        self._asked: dict[str, _Look] = {}
        self._fits: dict[str, dict[str, Any]] = {}
        self._misfits: dict[str, tuple[Node, Unfit]] = {}

    @property
    def left_out(self) -> dict[str, str]:
        """Returns a line for each node that is not used, by Ray's id."""
        return {name: f"left out: node {node}: {unfit.reason}" for name, (node, unfit) in self._misfits.items()}

    @property
    def unanswered(self) -> frozenset[str]:
        """Returns Ray's ids of the nodes that a look has begun at and not ended."""
        return frozenset(self._asked)

    def leave_out(self, node: Node, unfit: Unfit) -> None:
        """Uses the node no more."""
        self._asked.pop(node.name, None)
        self._misfits[node.name] = node, unfit
        self._fits.pop(node.name, None)
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
        names, began = {node.name for node in nodes}, time.monotonic()
        for node in nodes:
            if node.name not in self._fits.keys() | self._misfits.keys() | self._asked.keys():
                self._asked[node.name] = _ask(self._needs, node)
        while True:
            for node in [node for node in nodes if node.name in self._asked]:
                self._hear(node, self._needs)
            waited_s = time.monotonic() - began
            enough = waited_s >= wait_s or (names & self._fits.keys() and waited_s >= _ENOUGH_S)
            if enough or not names & self._asked.keys() - self._misfits.keys():
                return [node for node in nodes if node.name in self._fits]
            time.sleep(_PAUSE_S)

    def require(self, nodes: Sequence[Node]) -> list[Node]:
        """Returns the nodes that fit, after a look at all that answer in time; raises as `require_some`."""
        fitting = self.fitting(nodes, wait_s=_ANSWER_S + _SEEN_S)
        self.require_some(nodes)
        return fitting

    def found(self, node: Node) -> Mapping[str, Any]:
        """Returns what a look at a node that fits has found (`inspect`)."""
        return self._fits[node.name]

    def settle(self, needs: Needs, nodes: Sequence[Node]) -> None:
        """Judges those `nodes` that fit again, by `needs` that have become more."""
        self._needs = needs
        for node in [node for node in nodes if node.name in self._fits]:
            if unfit := misfit(self._fits[node.name], self._here, needs):
                self.leave_out(node, unfit)

    def require_some(self, nodes: Collection[Node]) -> None:
        """Raises ConfigError, or StorageError, if all `nodes` are left out, and none that fits may come back."""
        unfit = dict(self._misfits[node.name] for node in nodes if node.name in self._misfits)
        if nodes and len(unfit) == len(nodes) and not self._fits:
            raise none_left({str(node): why for node, why in unfit.items()})

    def _hear(self, node: Node, needs: Needs) -> None:
        """Judges a node whose task has ended, or has not for too long; it may still answer then."""
        import ray
        from ray.exceptions import RayError, RayTaskError, TaskUnschedulableError

        look, now = self._asked[node.name], time.monotonic()
        if not ray.wait([look.call], timeout=0)[0]:
            if now >= look.give_up and node.name not in self._misfits:
                self.leave_out(node, Unfit(f"no answer in {_ANSWER_S:.0f} s: look at its load and at Ray's logs there"))
                self._asked[node.name] = look
            return
        try:
            found = ray.get(look.call)
        except RayTaskError as error:
            said = next((line for line in str(error).splitlines()[::-1] if "Error: " in line), first_line(error))
            fix = "install the same Septet there, or set cluster.ship_code=true"
            why = f"no worker of Septet starts there ({said.strip()}): {fix}"
            self.leave_out(node, Unfit(why))
            return
        except RayError as error:
            joined = isinstance(error, TaskUnschedulableError) and now < look.give_up
            if joined and node.name in {one.name for one in living_nodes()}:
                # Ray lists a node that has just joined before it can give it a task.
                self._asked[node.name] = replace(_ask(needs, node), give_up=look.give_up)
                return
            self.leave_out(node, Unfit(f"its worker ended ({first_line(error)}): look at Ray's logs there"))
            return
        look.seen_by = look.seen_by or now + _SEEN_S
        found["seen"] = look.probe is None or (not found["probe"] and _seen(look.probe, node.name))
        if not found["probe"] and not found["seen"] and now < look.seen_by:
            return
        del self._asked[node.name]
        self._misfits.pop(node.name, None)
        if unfit := misfit(found, self._here, needs):
            self.leave_out(node, unfit)
            return
        self._fits[node.name] = found
        if said := remark(found, next(iter(self._fits.values()))):
            _say_once(f"node {node}: {said}")


def _ask(needs: Needs, node: Node) -> _Look:
    """Starts a look at `node`; Ray runs it there and nowhere else, and not again."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # A name of its own for each look: a network file system may remember for half a minute that a name was not there.
    probe = needs.folder and needs.folder / f"{TEMPORARY_PREFIX}node-{node.name}.{secrets.token_hex(4)}"
    strategy = NodeAffinitySchedulingStrategy(node.name, soft=False)
    task: Any = ray.remote(inspect).options(num_cpus=0, max_retries=0, scheduling_strategy=strategy, name="preflight")
    return _Look(task.remote(probe, node.name, needs.stores), probe, time.monotonic() + _ANSWER_S)


def _seen(probe: Path, text: str) -> bool:
    """Returns whether this machine sees what the node wrote, and deletes it."""
    try:
        is_there = probe.read_text() == text
        probe.unlink()
    except OSError:
        return False
    return is_there
