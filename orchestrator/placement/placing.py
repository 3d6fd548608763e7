"""From configuration, machine and measurement to a run's numerics: settled at its first start, kept ever after."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import psutil

from orchestrator.cluster import available_cpus, check_resources
from orchestrator.config import ClusterConfig, Config, Precision
from orchestrator.placement import choice as placement
from orchestrator.placement.cache import Key, cpu_model, read_figures, write_figures
from orchestrator.placement.choice import Candidate, Figure, Option
from orchestrator.placement.measuring import measure
from orchestrator.plan import Plan
from workers.errors import ConfigError
from workers.numerics import Capabilities, capabilities, code_digest, missing
from workers.protocol import Numerics

_ASK_GPU = "from workers.throughput.measure import gpu_has_bf16; print(gpu_has_bf16())"
_GPU_TIMEOUT_S = 120
_MEMORY_MAX = Path("/sys/fs/cgroup/memory.max")


class Measuring(StrEnum):
    """When to measure rates that are not known yet; those of an earlier measurement are used in any case."""

    never = "never"
    where_it_pays = "where_it_pays"
    always = "always"


@dataclass(frozen=True)
class Placed:
    """What a run is to begin with.

    `cluster` asks for the CPUs of a member. `line` says what was chosen and why. `lacked` is what
    `workers.numerics.missing` says of this machine. `options` are what there was to choose from, empty where nothing
    was measured.
    """

    numerics: Numerics
    cluster: ClusterConfig
    line: str
    lacked: str = ""
    options: tuple[Option, ...] = ()

    @property
    def rate(self) -> float | None:
        """Images a second of one member at a stage of the costliest kind, where that was measured."""
        wanted = (self.numerics.threads, self.numerics.precision)
        for option in self.options:
            candidate = option.candidate
            if (candidate.threads, candidate.precision) == wanted:
                return option.figure.images_per_second / candidate.members
        return None


def place(config: Config, plan: Plan, note: Callable[[str], None], measuring: Measuring) -> Placed:
    """Chooses what the configuration leaves to `auto`.

    Where a plan is too short for measuring to pay, and on a cluster that is reached by its address, that is one thread
    a member, in the precision that this machine's CPU is good at.

    Args:
        config: with the cluster and the precision asked for.
        plan: what is to be trained.
        note: hears of each measurement.
        measuring: whether to measure what is not known yet.
    """
    if config.cluster.gpus_per_member:
        return _on_gpus(config, plan)
    found = capabilities()
    threads = None if config.cluster.choose_cpus else config.cluster.cpus_per_member
    precisions = _precisions(config.precision, bf16=found.bf16)
    if config.cluster.address:
        settled = threads is not None and len(precisions) == 1
        why = "as configured" if settled else "not measured: the cluster is elsewhere"
        default = Candidate(threads or 1, 1, precisions[0])
        return _placed(config, plan, default, found, f"{default.terms} ({why})")
    members = placement.most_members(plan, _memory_bytes())
    given = placement.candidates(available_cpus(), members, precisions, threads)
    default = given[0]
    if len(given) == 1:
        return _placed(config, plan, default, found, f"{default} (as configured)")
    worth_it = placement.is_worth_measuring(plan, default, available_cpus())
    if measuring is Measuring.where_it_pays and not worth_it:
        measuring = Measuring.never
    options = placement.options(plan, _figures(config, plan, given, found, note, measuring))
    if not worth_it:
        placed = _placed(config, plan, default, found, f"{default} (too short a plan for measuring to pay)")
    elif default not in {option.candidate for option in options}:
        placed = _placed(config, plan, default, found, f"{default} (not measured)")
    else:
        chosen = placement.choose(options, default)
        placed = _placed(config, plan, chosen.candidate, found, placement.reason(chosen, options))
    return replace(placed, options=options)


def kept(config: Config, plan: Plan, numerics: Numerics) -> ClusterConfig:
    """The cluster's settings for a run that goes on with `numerics`: `auto` asks for CPUs for its threads."""
    cluster = config.cluster
    if not cluster.choose_cpus:
        return cluster
    if cluster.address or cluster.gpus_per_member:
        return replace(cluster, cpus_per_member=numerics.threads, choose_cpus=False)
    num_cpus = available_cpus()
    members = placement.most_members(plan, _memory_bytes())
    cpus = min(numerics.threads, num_cpus)
    if members < len(plan.members):
        cpus = placement.reserved_cpus(cpus, num_cpus, members)
    return replace(cluster, cpus_per_member=cpus, choose_cpus=False)


def lacking(config: Config) -> Callable[[Numerics], str]:
    """What says which part of a run's numerics this machine lacks; of a cluster elsewhere nothing is known."""
    return lambda numerics: "" if config.cluster.address else missing(numerics, capabilities())


def _placed(config: Config, plan: Plan, chosen: Candidate, found: Capabilities, line: str) -> Placed:
    numerics = Numerics(chosen.threads, chosen.precision, "cpu", _kernels(found))
    return Placed(numerics, kept(config, plan, numerics), line, lacking(config)(numerics))


def _figures(
    config: Config,
    plan: Plan,
    given: Sequence[Candidate],
    found: Capabilities,
    note: Callable[[str], None],
    measuring: Measuring,
) -> tuple[Figure, ...]:
    """Those of `given` that are known, measured now if need be, in the order of `given`."""
    stage = placement.costliest(plan)
    kind = placement.kind_of(stage)
    key = Key(cpu_model(), available_cpus(), code_digest(), _kernels(found), kind, tuple(map(str, given)))
    kept_figures = read_figures(config.store, key)
    # Which of them were measured and which were hopeless is one measurement's verdict: all anew, or none.
    if kept_figures or measuring is Measuring.never:
        return kept_figures
    numerics = Numerics(device="cpu", kernels=_kernels(found))
    figures = measure(stage, given, numerics, note)
    write_figures(config.store, key, figures)
    return figures


def _precisions(asked: Precision, *, bf16: bool) -> Sequence[str]:
    """The ones to choose from, the preferred one first."""
    if asked is not Precision.auto:
        return (asked.value,)
    return (Precision.bf16.value, Precision.fp32.value) if bf16 else (Precision.fp32.value,)


def _kernels(found: Capabilities) -> str:
    return "compiled" if found.compiled_kernels else "torch"


def _on_gpus(config: Config, plan: Plan) -> Placed:
    """Nothing is measured: the threads of a member are its share of the CPUs. Written, but never run on a GPU."""
    wanted = config.cluster
    precision = _precisions(config.precision, bf16=config.precision is Precision.auto and _gpu_has_bf16())[0]
    threads = wanted.cpus_per_member
    if wanted.choose_cpus and not wanted.address:
        # What does not fit here has been refused, but by `septet plan`, which tells of it and goes on.
        with contextlib.suppress(ConfigError):
            members = min(len(plan.members), check_resources(wanted))
            threads = max(1, available_cpus() // members)
    numerics = Numerics(threads, precision, "cuda")
    line = f"{Candidate(threads, 1, precision).terms}, {wanted.gpus_per_member:g} GPUs (not measured on GPUs)"
    return Placed(numerics, kept(config, plan, numerics), line)


def _gpu_has_bf16() -> bool:
    """Asked in another process: this one is to hold no memory of a GPU."""
    command = [sys.executable, "-P", "-c", _ASK_GPU]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=_GPU_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return False
    return asked.stdout.strip() == "True"


def _memory_bytes(memory_max: Path = _MEMORY_MAX) -> float:
    """The machine's memory, or a container's limit (cgroup v2): all of it, since what is free just now varies."""
    total = psutil.virtual_memory().total
    try:
        return float(min(total, int(memory_max.read_text())))
    except (OSError, ValueError):
        return float(total)
