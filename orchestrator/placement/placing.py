"""Chooses a run's numerics from configuration, machine and measurement: once, at its first start."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum

from orchestrator.cluster import available_cpus, check_resources, memory_limit
from orchestrator.config import ClusterConfig, Compile, Config, Precision
from orchestrator.placement import choice
from orchestrator.placement.choice import Candidate, Kind, Option
from orchestrator.placement.measuring import measure, measure_modes, read_rates, write_rates
from orchestrator.plan import Plan, StageRef
from workers.errors import ConfigError
from workers.models import outline
from workers.numerics import capabilities, code_digest, cpu_model, missing
from workers.protocol import Numerics
from workers.training import FUSED

_ASK_GPU = "from workers.throughput.measure import gpu_precision; print(gpu_precision())"
_GPU_TIMEOUT_S = 120


# When to measure unknown rates; rates measured earlier are always used.
Measuring = StrEnum("Measuring", "never where_it_pays always")


@dataclass(frozen=True)
class Placed:
    """The numerics a run begins with; `cluster` has a member's CPUs, `line` says what was chosen and why.

    `lacked` names what of `numerics` this machine lacks. `options` is empty if nothing was measured.
    """

    numerics: Numerics
    cluster: ClusterConfig
    line: str
    lacked: str = ""
    options: tuple[Option, ...] = ()

    @property
    def rate(self) -> float | None:
        """Returns the images per second of one member at a stage of the costliest kind, or None if not measured."""
        of = {(option.candidate.threads, option.candidate.precision): option for option in self.options}
        option = of.get((self.numerics.threads, self.numerics.precision))
        return None if option is None else option.images_per_second / option.candidate.members


def place(config: Config, plan: Plan, note: Callable[[str], None], measuring: Measuring) -> Placed:
    """Chooses what `config` leaves to `auto` in cluster and precision; `note` is called before each measurement.

    A plan too short for measuring to pay, and a cluster reached by its address, get one thread a member, in the
    precision that suits this machine's CPU.
    """
    if not plan.stages:
        return _placed(config, plan, Candidate(1, 1, "fp32"), "nothing to train")
    if config.cluster.gpus_per_member:
        return _on_gpus(config, plan, note, measuring)
    threads = None if config.cluster.choose_cpus else config.cluster.cpus_per_member
    # Where a CPU would compute wrong gradients in it, bf16 is no choice.
    wrong = any(outline(stage.recipe.model, stage.num_classes).strided_on_a_pixel for stage in plan.stages)
    precisions = _precisions(config.precision, bf16=capabilities().bf16 and not wrong)
    if config.cluster.address:
        settled = threads is not None and len(precisions) == 1
        default = Candidate(threads or 1, 1, precisions[0])
        why = "as configured" if settled else "not measured: the cluster is elsewhere"
        return _placed(config, plan, default, f"{default.terms} ({why})")
    num_cpus = available_cpus()
    given = choice.candidates(
        num_cpus, choice.most_members(plan, config.predict.checkpoint, memory_limit()), precisions, threads
    )
    default = given[0]
    if len(given) == 1:
        return _placed(config, plan, default, f"{default} (as configured)")
    worth_it = choice.is_worth_measuring(plan, default, num_cpus)
    may_measure = measuring is Measuring.always or (measuring is Measuring.where_it_pays and worth_it)
    found = choice.options(plan, _rates(config, plan, given, note, may_measure=may_measure))
    if not worth_it:
        return _placed(config, plan, default, f"{default} (too short a plan for measuring to pay)", found)
    if default not in [option.candidate for option in found]:
        return _placed(config, plan, default, f"{default} (not measured)", found)
    chosen = choice.choose(found, default)
    return _placed(config, plan, chosen.candidate, choice.reason(chosen, found), found)


def kept(config: Config, plan: Plan, numerics: Numerics) -> ClusterConfig:
    """Returns the cluster's settings for a run with these `numerics`: `auto` asks for CPUs for its threads."""
    cluster = config.cluster
    if not cluster.choose_cpus:
        return cluster
    cpus = numerics.threads
    if not cluster.address and not cluster.gpus_per_member:
        num_cpus, members = available_cpus(), choice.most_members(plan, config.predict.checkpoint, memory_limit())
        cpus = min(cpus, num_cpus)
        if members < len(plan.trained):
            cpus = choice.reserved_cpus(cpus, num_cpus, members)
    return replace(cluster, cpus_per_member=cpus, choose_cpus=False)


def lacking(config: Config) -> Callable[[Numerics], str]:
    """Returns a function that names what this machine lacks of given numerics; "" for a cluster elsewhere."""
    return lambda numerics: "" if config.cluster.address else missing(numerics, capabilities())


def measure_rates(plan: Plan, placed: Placed, progress: Callable[[str], None]) -> Mapping[StageRef, float]:
    """Returns the images per second of each stage, as `placed`. Stages of one kind and freezing are measured once.

    The kind measured for the placement keeps that rate. The others are timed alone, without the small slowdown by
    other members. The machine must have what a member gets.
    """
    # Imported here, since it loads torch.
    from workers.throughput import images_per_second

    measured: dict[tuple[Kind, frozenset[str]], float] = {}
    if placed.rate is not None:
        measured[choice.kind_of(choice.costliest(plan)), frozenset()] = placed.rate
    rates = {}
    for stage in plan.stages:
        frozen = outline(stage.recipe.model, stage.num_classes).select_all(stage.recipe.freeze)
        kind = choice.kind_of(stage), frozen
        if kind not in measured:
            progress(f"measuring the rate of {stage.ref}")
            measured[kind] = images_per_second(stage.recipe, stage.num_classes, placed.numerics, frozen)
        rates[stage.ref] = measured[kind]
    return rates


def augmentation_line(plan: Plan, rates: Mapping[StageRef, float], numerics: Numerics) -> str:
    """Returns a line on what changing images costs, measured for the stage where it costs most; empty for none."""
    from workers.throughput import drawing_seconds

    recipes = {stage.ref: stage.recipe for stage in plan.stages}
    costs = {ref: drawing_seconds(one.augmentation, one.model.input_size) for ref, one in recipes.items()}
    ref, seconds = max(costs.items(), key=lambda cost: cost[1])
    if not seconds:
        return ""
    share = f"{seconds * rates[ref]:.0%} of the step of {ref}"
    if numerics.device != "cpu":
        share = f"beside the step: {numerics.threads} threads draw at most {numerics.threads / seconds:,.0f} images/s"
    return f"{seconds * 1000:.2g} ms of a CPU an image, {share}"


def _placed(config: Config, plan: Plan, chosen: Candidate, line: str, found: tuple[Option, ...] = ()) -> Placed:
    numerics = Numerics(chosen.threads, chosen.precision, "cpu", _kernels())
    return Placed(numerics, kept(config, plan, numerics), line, lacking(config)(numerics), found)


def _rates(
    config: Config, plan: Plan, given: Sequence[Candidate], note: Callable[[str], None], *, may_measure: bool
) -> dict[Candidate, float]:
    """Returns the known rates of `given`, measuring them first if needed."""
    stage = choice.costliest(plan)
    about = {
        "cpu": cpu_model(),
        "num_cpus": available_cpus(),
        "code": code_digest(),
        "kernels": _kernels(),
        "kind": asdict(choice.kind_of(stage)),
        "asked": [str(candidate) for candidate in given],
    }
    rates = read_rates(config.store, about)
    # One measurement decides which candidates are hopeless, so either all are measured again or none.
    if not rates and may_measure:
        rates = measure(stage, given, Numerics(kernels=_kernels()), note)
        write_rates(config.store, about, rates)
    return rates


def _precisions(asked: Precision, *, bf16: bool) -> Sequence[str]:
    """Returns the precisions to choose from, the preferred one first."""
    if asked is not Precision.auto:
        return (asked.value,)
    return (Precision.bf16.value, Precision.fp32.value) if bf16 else (Precision.fp32.value,)


def _kernels() -> str:
    return "compiled" if capabilities().compiled_kernels else "torch"


def _on_gpus(config: Config, plan: Plan, note: Callable[[str], None], measuring: Measuring) -> Placed:
    """Gives each member its share of the CPUs, and measures how to compile its steps. Has never run on a GPU."""
    wanted, is_here = config.cluster, False
    precision = _gpu_precision(plan) if config.precision is Precision.auto else config.precision.value
    threads = wanted.cpus_per_member
    if not wanted.address:
        # A launch has already refused what does not fit here; `septet plan` reports it and continues.
        with contextlib.suppress(ConfigError):
            slots = check_resources(wanted)
            threads = max(1, available_cpus() // min(len(plan.trained), slots)) if wanted.choose_cpus else threads
            is_here = True
    numerics = Numerics(threads, precision, "cuda")
    worth_it = measuring is Measuring.always or (
        measuring is Measuring.where_it_pays and choice.is_worth_compiling(plan)
    )
    rates = {}
    if is_here and worth_it and config.compile is Compile.auto:
        rates = measure_modes(choice.costliest(plan), numerics, note)
    numerics = replace(numerics, compile=choice.compile_mode(rates))
    found = ", ".join(f"{mode} {rate:,.0f} images/s" for mode, rate in rates.items()) or "not measured on GPUs"
    line = f"{Candidate(threads, 1, precision).terms}, {wanted.gpus_per_member:g} GPUs, compile={numerics.compile}"
    return Placed(numerics, kept(config, plan, numerics), f"{line} ({found})")


def _gpu_precision(plan: Plan) -> str:
    """Asks for the GPU's in another process, so that this one holds no GPU memory; fp16 needs fused optimizers."""
    command = [sys.executable, "-P", "-c", _ASK_GPU]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=_GPU_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return "fp32"
    fused = all(stage.recipe.optimizer.name in FUSED for stage in plan.stages)
    said = asked.stdout.strip()
    return said if said == "bf16" or (said == "fp16" and fused) else "fp32"
