"""Training rates of a plan's stages, measured on this machine for a moment each: what `septet plan` reckons with."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from orchestrator.config_schema import Config
from orchestrator.plan_values import Plan, Stage, StageRef
from workers.protocol import Numerics
from workers.settings import ScheduleSettings, TrainingSettings


def measure_rates(plan: Plan, config: Config, progress: Callable[[str], None]) -> Mapping[StageRef, float]:
    """Images a second of each stage, one thread setting and device for all; alike stages are measured once.

    The machine must have what a member gets. That members side by side slow one another a little is not reckoned with.
    """
    # Here and not above: torch is loaded.
    from workers.throughput import images_per_second

    numerics = Numerics(threads=config.cluster.cpus_per_member, precision=config.precision, device="cpu")
    if config.cluster.gpus_per_member:
        numerics = replace(numerics, device="cuda")
    measured: dict[tuple[TrainingSettings, int], float] = {}
    rates = {}
    for stage in plan.stages:
        kind = _kind(stage)
        if kind not in measured:
            progress(f"measuring the rate of {stage.ref}")
            measured[kind] = images_per_second(stage.settings, stage.num_classes, numerics)
        rates[stage.ref] = measured[kind]
    return rates


def _kind(stage: Stage) -> tuple[TrainingSettings, int]:
    """What a step's time depends on: not how many epochs there are, nor how large its steps."""
    optimizer = replace(stage.settings.optimizer, lr=1.0)
    return replace(stage.settings, schedule=ScheduleSettings(), optimizer=optimizer), stage.num_classes
