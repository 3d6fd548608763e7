"""Chooses a run's numerics from configuration, machine and measurement: once, at its first start."""

import contextlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from orchestrator.cluster import (
    Machine,
    Needs,
    available_cpus,
    check_resources,
    idle_gpus,
    memory_limit,
    open_nodes,
)
from orchestrator.config import ClusterConfig, Compile, Config, Kernels, Precision
from orchestrator.placement import choice
from orchestrator.placement.choice import Candidate, Kind, Option
from orchestrator.placement.measuring import ask_gpu, measure, measure_modes, read_rates, write_rates
from orchestrator.plan import Plan, StageRef
from workers.errors import ConfigError
from workers.models import MODEL_NAMES, outline
from workers.numerics import capabilities, code_digest, cpu_model, missing
from workers.protocol import Numerics
from workers.training import FUSED

_log = logging.getLogger(__name__)

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
    def option(self) -> Option | None:
        """Returns the chosen option, or None if it was not measured."""
        of = {(option.candidate.threads, option.candidate.precision): option for option in self.options}
        return of.get((self.numerics.threads, self.numerics.precision))

    @property
    def rate(self) -> float | None:
        """Returns the images per second of one member at a stage of the costliest kind, or None if not measured."""
        return None if self.option is None else self.option.images_per_second / self.option.candidate.members


def place(
    config: Config, plan: Plan, note: Callable[[str], None], measuring: Measuring, needs: Needs | None = None
) -> Placed:
    """Chooses what `config` leaves to `auto` in cluster and precision; `note` is called before each measurement.

    On a cluster at an address it is chosen and measured for the nodes that fit, by `needs` without numerics; those that
    lack what is chosen are left out. In a plan too short for measuring to pay, members get as many threads as keep the
    CPUs busy.

    Raises:
        ConfigError: no node fits, or the cluster does not answer.
        StorageError: no node shares the storage.
    """
    chooser, cluster = _Chooser(config, plan, note, measuring), config.cluster
    if not plan.stages:
        return chooser.placed(Candidate(1, 1, "fp32"), "nothing to train", built=capabilities().compiled_kernels)
    choose = chooser.on_gpus if cluster.gpus_per_member else chooser.on_cpus
    if cluster.address is None:
        if idle := idle_gpus(cluster.gpus_per_member):
            note(idle)
        return choose([_this_machine(config, plan)])
    needs = replace(needs or needs_of(config, plan), numerics=None)
    with open_nodes(cluster, needs) as nodes:
        if nodes.idle_gpus:
            note(nodes.idle_gpus)
        placed = choose(nodes.machines)
        nodes.settle(replace(needs, numerics=placed.numerics))
    return placed


def needs_of(config: Config, plan: Plan) -> Needs:
    """Returns what `plan` needs of a node, but for numerics, and what only a run has."""
    # On GPUs most of the memory is theirs.
    member_bytes = 0 if config.cluster.gpus_per_member else choice.largest_member(plan, config.predict.checkpoint)
    return Needs(code_digest(), member_bytes=member_bytes, typed=config.precision is not Precision.auto)


def _this_machine(config: Config, plan: Plan) -> Machine:
    slots = 0
    if not config.cluster.gpus_per_member:
        workers = config.cluster.workers_per_member[-1]
        slots = choice.most_members(plan, config.predict.checkpoint, memory_limit(), workers)
    else:
        # A launch has already refused what does not fit here; `septet plan` reports it and continues.
        with contextlib.suppress(ConfigError):
            slots = check_resources(config.cluster)
    able = capabilities()
    return Machine(
        "", cpu_model(), available_cpus(), slots, able.bf16, able.compiled_kernels, lambda run, *given: run(*given)
    )


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


@dataclass(frozen=True)
class _Chooser:
    """Chooses for machines; the fields are the arguments of `place`."""

    config: Config
    plan: Plan
    note: Callable[[str], None]
    measuring: Measuring

    def placed(self, chosen: Candidate, line: str, *, built: bool, found: tuple[Option, ...] = ()) -> Placed:
        numerics = replace(self._numerics(built=built), threads=chosen.threads, precision=chosen.precision)
        return Placed(numerics, kept(self.config, self.plan, numerics), line, lacking(self.config)(numerics), found)

    def on_cpus(self, machines: Sequence[Machine]) -> Placed:
        """Chooses for those of `machines` that can most, or for all if the plan ends sooner so, as measured."""
        kernels = self.config.cluster.kernels
        if not machines:
            default = Candidate(self.config.cluster.cpus_per_member, 1, self._precisions(bf16=False)[0])
            return self.placed(default, f"{default.terms} (not measured: no node is there yet)", built=True)
        pool = [one for one in machines if one.compiled_kernels or kernels is not Kernels.compiled]
        if not pool:
            raise ConfigError(
                "cluster.kernels=compiled: no machine that fits has them: install a C compiler and Septet"
            )
        best = pool
        if kernels is not Kernels.plain:
            best = [one for one in best if one.compiled_kernels] or best
        if len(self._precisions(bf16=True)) > 1:
            best = [one for one in best if one.bf16] or best
        few = self._alike(best, alone=len(best) == len(pool))
        if len(best) == len(pool):
            return few
        every = self._alike(pool, alone=False)
        lacked = {"compiled kernels": "cluster.kernels=plain"} if few.numerics.kernels != every.numerics.kernels else {}
        lacked |= {"bf16": "precision=fp32"} if best[0].bf16 and not all(one.bf16 for one in pool) else {}
        who, cost = f"{len(pool) - len(best)} of {len(pool)} nodes lack {' or '.join(lacked)}", "a rate not measured"
        if few.option and every.option:
            cost = f"{(every.rate or 0) / (few.rate or 1):.1f} times the rate each"
            if every.option.seconds < few.option.seconds:
                return replace(every, line=f"{every.line}; {who}: all train without, at {cost}")
        instead = " ".join(lacked.values())
        return replace(few, line=f"{few.line}; {who} and are left out; {instead} would use them at {cost}")

    def _alike(self, machines: Sequence[Machine], *, alone: bool) -> Placed:
        """Chooses for all of `machines`, by what they have in common; `alone`: it is compared with no other choice."""
        plan, cluster, built = self.plan, self.config.cluster, all(one.compiled_kernels for one in machines)
        precisions = self._precisions(bf16=all(one.bf16 for one in machines))
        threads = None if cluster.choose_cpus else cluster.cpus_per_member
        rooms = [(one.num_cpus, one.slots) for one in machines]
        given = choice.candidates(rooms, len(plan.trained), precisions, threads, cluster.workers_per_member)
        default = given[0]
        if alone and len(given) == 1:
            return self.placed(default, f"{default} (as configured)", built=built)
        fewest = min(given, key=lambda one: one.threads)
        worth_it = choice.is_worth_measuring(plan, fewest, sum(one.num_cpus for one in machines))
        may_measure = self.measuring is Measuring.always or (self.measuring is Measuring.where_it_pays and worth_it)
        rates = {}
        for one in dict.fromkeys(machines):
            at = machines.index(one)
            on_it = {each: choice.on_each(each.threads, rooms, each.members)[at] for each in given}
            rates[one.name] = self._rates(one, on_it, self._numerics(built=built), may_measure=may_measure)
        # The slowest kind counts, since a run ends with its last member.
        of_each = {each: [own[each] for own in rates.values() if each in own] for each in given}
        known = {each: each.members * min(own) for each, own in of_each.items() if len(own) == len(rates)}
        found = choice.options(plan, known)
        if not worth_it or default not in known:
            why = "not measured" if worth_it else "too short a plan for measuring to pay"
            return self.placed(default, f"{default} ({why})", built=built, found=found)
        chosen = choice.choose(found, default)
        where = f", measured on {', '.join(rates)}" if cluster.address else ""
        return self.placed(chosen.candidate, choice.reason(chosen, found) + where, built=built, found=found)

    def _rates(
        self, machine: Machine, on_it: Mapping[Candidate, int], numerics: Numerics, *, may_measure: bool
    ) -> dict[Candidate, float]:
        """Returns the known images per second of one member on `machine`, measuring them first if needed.

        `on_it` has the members that a candidate trains there. Where it is 0, the rate is infinite.
        """
        own = {one: replace(one, members=members) for one, members in on_it.items()}
        given = list(dict.fromkeys(one for one in own.values() if one.members))
        stage = choice.costliest(self.plan)
        about = {
            "cpu": machine.processors,
            "num_cpus": machine.num_cpus,
            "code": code_digest(),
            "kernels": numerics.kernels,
            "kind": asdict(choice.kind_of(stage)),
            "asked": [str(candidate) for candidate in given],
        }
        rates = read_rates(self.config.store, about)
        # One measurement decides which candidates are hopeless, so either all are measured again or none.
        if not rates and given and may_measure:
            rates = self._call(machine, measure, stage, given, numerics) or {}
            write_rates(self.config.store, about, rates)
        known = {one: rates[same] / same.members for one, same in own.items() if same in rates}
        return {**{one: math.inf for one, same in own.items() if not same.members}, **known}

    def _call(self, machine: Machine, function: Callable[..., Any], *given: Any) -> Any:
        """Runs a measurement on a machine; its lines stay there, unless it is this one."""
        if not machine.name:
            return machine.call(function, *given, self.note)
        self.note(f"measuring on {machine.name}")
        return machine.call(function, *given, _log.debug)

    def _precisions(self, *, bf16: bool) -> Sequence[str]:
        """Returns the precisions to choose from, the preferred one first; `bf16`: the CPUs multiply it."""
        if self.config.precision is not Precision.auto:
            return (self.config.precision.value,)
        # Where a CPU would compute wrong gradients in it, bf16 is no choice.
        wrong = any(outline(one.recipe.model, one.num_classes).strided_on_a_pixel for one in self.plan.stages)
        return (Precision.bf16.value, Precision.fp32.value) if bf16 and not wrong else (Precision.fp32.value,)

    def _numerics(self, *, built: bool) -> Numerics:
        kernels = "compiled" if built and self.config.cluster.kernels is not Kernels.plain else "torch"
        of_others = any(stage.recipe.model.name not in MODEL_NAMES for stage in self.plan.stages)
        return Numerics(kernels=kernels, convolutions="by_shape" if of_others else "torch")

    def on_gpus(self, machines: Sequence[Machine]) -> Placed:
        """Gives each member its share of the CPUs, and measures how to compile its steps. Has never run on a GPU."""
        config, plan, wanted = self.config, self.plan, self.config.cluster
        precision = config.precision.value
        if config.precision is Precision.auto:
            precision = _gpu_precision(plan, {one.call(ask_gpu) for one in dict.fromkeys(machines)})
        threads, machines = wanted.cpus_per_member, [one for one in machines if one.slots]
        if wanted.choose_cpus and machines:
            on_each = choice.on_each(1, [(one.num_cpus, one.slots) for one in machines], len(plan.trained))
            shares = [one.num_cpus // most for one, most in zip(machines, on_each, strict=True) if most]
            threads = max(1, min(shares))
        numerics = Numerics(threads, precision, "cuda")
        pays = self.measuring is Measuring.where_it_pays and choice.is_worth_compiling(plan)
        rates: dict[str, float] = {}
        kinds = list(dict.fromkeys(machines)) if config.compile is Compile.auto else []
        if kinds and (pays or self.measuring is Measuring.always):
            found = [self._call(one, measure_modes, choice.costliest(plan), numerics) or {} for one in kinds]
            rates = {mode: min(own[mode] for own in found) for mode in found[0] if all(mode in own for own in found)}
        numerics = replace(numerics, compile=choice.compile_mode(rates))
        said = ", ".join(f"{mode} {rate:,.0f} images/s" for mode, rate in rates.items()) or "not measured on GPUs"
        where = f", measured on {', '.join(one.name for one in kinds)}" if rates and wanted.address else ""
        line = f"{Candidate(threads, 1, precision).terms}, {wanted.gpus_per_member:g} GPUs, compile={numerics.compile}"
        return Placed(numerics, kept(config, plan, numerics), f"{line} ({said}{where})")


def _gpu_precision(plan: Plan, said: set[str]) -> str:
    """Returns the half precision that all GPUs multiply, of what each said; fp16 needs fused optimizers."""
    if said == {"bf16"}:
        return "bf16"
    fused = all(stage.recipe.optimizer.name in FUSED for stage in plan.stages)
    return "fp16" if fused and said and said <= {"bf16", "fp16"} else "fp32"
