"""Training rates of a plan's stages, measured on this machine for a moment each: what `septet plan` reckons with."""

from collections.abc import Callable, Mapping

from orchestrator.placement.choice import Kind, costliest, kind_of
from orchestrator.placement.placing import Placed
from orchestrator.plan import Plan, StageRef
from workers.models import outline


def measure_rates(plan: Plan, placed: Placed, progress: Callable[[str], None]) -> Mapping[StageRef, float]:
    """Images a second of each stage, as `placed`; stages of a kind that freeze the same layers are measured once.

    The kind that a placement was measured with goes by that figure. The machine must have what a member gets. For the
    other kinds it is not reckoned with that members side by side slow one another a little.
    """
    # Here and not above: torch is loaded.
    from workers.throughput import images_per_second

    measured: dict[tuple[Kind, frozenset[str]], float] = {}
    if placed.rate is not None:
        measured[kind_of(costliest(plan)), frozenset()] = placed.rate
    rates = {}
    for stage in plan.stages:
        frozen = outline(stage.settings.model, stage.num_classes).select_all(stage.freeze)
        kind = kind_of(stage), frozen
        if kind not in measured:
            progress(f"measuring the rate of {stage.ref}")
            measured[kind] = images_per_second(stage.settings, stage.num_classes, placed.numerics, frozen)
        rates[stage.ref] = measured[kind]
    return rates
