"""Several actors that train one member on Ray: placed together, and one end for all of them."""

import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.cluster.interface import Failure, Outcome, Trained
from orchestrator.cluster.ray_nodes import usable_nodes
from workers.errors import PeerLost

# Ray tells a worker's death within this time, while its peers notice it at once.
DEATH_TOLD_S = 10.0
_NAMES = {"num_cpus": "CPU", "num_gpus": "GPU"}


def place_together(
    width: int, resources: Mapping[str, float], left_out: Collection[str]
) -> tuple[Any, list[dict[str, Any]]]:
    """Asks for room for a gang on as few nodes as can be, and on none that is left out; Ray gives all of it at once.

    Returns Ray's placement group, and the options with which each actor starts in it.
    """
    from ray.util import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    bundle = {_NAMES.get(name, name): float(amount) for name, amount in resources.items() if amount}
    selector = usable_nodes(left_out).get("label_selector")
    group = placement_group([bundle] * width, "PACK", bundle_label_selector=[selector] * width if selector else None)
    return group, [{"scheduling_strategy": PlacementGroupSchedulingStrategy(group, rank)} for rank in range(width)]


@dataclass
class Followers:
    """The actors of a gang from rank 1 on, the group that it is placed by, and how its workers' calls have ended."""

    actors: list[Any]
    group: Any = None
    # The rank whose end was the gang's: its place is where an error happened.
    cause: int = 0
    _ends: dict[int, Outcome] = field(default_factory=dict)
    _failed_s: float = math.inf

    def begin(self) -> None:
        """Forgets how the calls of an earlier stage ended."""
        self._ends, self._failed_s = {}, math.inf

    def note(self, rank: int, outcome: Outcome) -> None:
        """Records how the call of a rank has ended."""
        self._ends[rank] = outcome
        if not isinstance(outcome, Trained):
            self._failed_s = min(self._failed_s, time.monotonic())

    def outcome(self) -> Outcome | None:
        """Returns how the gang has ended: as rank 0 did, unless another worker was why; None as long as it runs.

        Who only says that a peer is gone does not know why: the one that went is waited for, but not for long.
        """
        own = self._ends.get(0)
        if own is not None and not _lacks_a_peer(own):
            return own
        failed = [rank for rank, end in self._ends.items() if not isinstance(end, Trained)]
        causes = [rank for rank in failed if not _lacks_a_peer(self._ends[rank])]
        waited = time.monotonic() - self._failed_s > DEATH_TOLD_S or len(self._ends) > len(self.actors)
        if failed and (waited or (own is not None and causes)):
            self.cause = (causes or failed)[0]
            return self._ends[self.cause]
        return None

    def remove_group(self) -> None:
        """Gives the room back."""
        from ray.util import remove_placement_group

        if self.group is not None:
            remove_placement_group(self.group)


def _lacks_a_peer(outcome: Outcome) -> bool:
    return isinstance(outcome, Failure) and outcome.kind == PeerLost.__name__
