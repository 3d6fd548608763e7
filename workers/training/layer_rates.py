"""Computes learning-rate factors of single layers, and the updates at which they change. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from workers.models import Outline
from workers.settings import RateChange, ScheduleSettings
from workers.training.schedule import whole_epochs


@dataclass(frozen=True)
class Phase:
    """From update `begin` (from 0) on, `factors` of the learning rate by layer; 1 where a layer is not named."""

    begin: int
    factors: Mapping[str, float]


def later_phases(
    found: Outline, lr_scale: Mapping[str, float], schedule: ScheduleSettings, updates_per_epoch: int
) -> tuple[Phase, ...]:
    """Returns the phases after the first, in order. Each holds all factors, and no two begin at the same update.

    Args:
        found: the model's layers; changes may name them in any way that `Outline.select` knows.
        lr_scale: each layer's factor in the first phase.
        schedule: holds the changes.
        updates_per_epoch: of the stage.
    """

    def begin(change: RateChange) -> int:
        return max(change.after_updates, whole_epochs(change.after_share, schedule.epochs) * updates_per_epoch)

    factors = dict(lr_scale)
    phases: dict[int, Phase] = {}
    for first, name in sorted((begin(change), name) for name, change in schedule.rate_changes.items()):
        factors = {**factors, **found.factors(schedule.rate_changes[name].layers)}
        phases[first] = Phase(first, factors)
    return tuple(phases.values())


def first_standstill(
    lr_scale: Mapping[str, float], later: Sequence[Phase], trained: Collection[str], num_updates: int
) -> int | None:
    """Returns the first of `num_updates` updates at which none of the `trained` layers moves, or None."""
    phases = [phase for phase in (Phase(0, lr_scale), *later, Phase(num_updates, {})) if phase.begin <= num_updates]
    for phase, following in pairwise(phases):
        if phase.begin < following.begin and all(phase.factors.get(layer, 1.0) == 0 for layer in trained):
            return phase.begin
    return None
