"""Chooses how many members train at once, with how many threads, in which precision, by measured rates. Pure.

Candidates are compared by the time that the whole plan would take to train. Images per second alone miss that seven
members, two at once, leave one to train alone at the end.

A machine's room for members is a pair: its CPUs, and the most members that its memory holds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.plan import Plan, Stage, estimate, multiply_adds
from orchestrator.text import counted, duration
from workers.models import outline
from workers.settings import AugmentationSettings, KeptCheckpoint, ModelSettings

# A candidate replaces the default only if it is faster by this share, which is more than noise.
MARGIN = 0.05
Rooms = Sequence[tuple[int, int]]

# Candidates this much slower are skipped: more threads or another turn would not reverse the order.
HOPELESS = 1.25
# The share of a plan's training that measuring may take. Members of one thread that keep all cores busy were within 10%
# of the best on every machine measured; where there are fewer members than cores, how many threads pay is less sure.
SHARE_OF_BUSY = 0.01
SHARE_OF_IDLE = 0.1
# Forward multiply-adds of one measured step: 128 full-size images, about two seconds on one core. In smaller batches
# weight traffic dominates, and members side by side look slower than they are.
MOST_STEP_WORK = 1e11
# The work of two cores while they measure: 7 s for nets of small steps, 42 s for the full-size one.
_MEASURING_WORK = 3e11
_MEASURED_STEPS = 25
# The forward multiply-adds of a GPU that trains at 100 TFLOP/s for the two minutes that measuring how to compile may
# take. An estimate: it was never measured on a GPU.
_COMPILING_WORK = 2e15
_MEMORY_SHARE = 0.8
_PROCESS_BYTES = 600e6
_NUMBER_BYTES = 4
# For each neuron and image: a full-size member took 0.6 GB for 128 images, besides its weights.
_NEURON_BYTES = 8


@dataclass(frozen=True, order=True)
class Candidate:
    """`members` train side by side with `threads` each."""

    threads: int
    members: int
    precision: str

    @property
    def terms(self) -> str:
        """Returns what each member gets, in words."""
        return f"{counted(self.threads, 'thread')} each, {self.precision}"

    def __str__(self) -> str:
        return f"{counted(self.members, 'member')} at once, {self.terms}"


@dataclass(frozen=True)
class Option:
    """A measured candidate: images per second of all its members, and seconds to train the whole plan."""

    candidate: Candidate
    images_per_second: float
    seconds: float

    @property
    def figures(self) -> str:
        return f"{self.images_per_second:,.0f} images/s together, {duration(self.seconds)} of training"

    def __str__(self) -> str:
        return f"{self.candidate}: {self.figures}"


@dataclass(frozen=True)
class Kind:
    """The settings that determine the rate of training; `batch_size` is what goes through the net at once."""

    model: ModelSettings
    batch_size: int
    num_classes: int
    augmentation: AugmentationSettings | None = None  # where it takes a share of the step


def kind_of(stage: Stage) -> Kind:
    changes = stage.recipe.augmentation if stage.recipe.augmentation.changes_images else None
    return Kind(stage.recipe.model, stage.recipe.optimizer.most_at_once, stage.num_classes, changes)


def macs(stage: Stage) -> int:
    """Returns the forward multiply-adds of one image."""
    return outline(stage.recipe.model, stage.num_classes).num_macs


def costliest(plan: Plan) -> Stage:
    """Returns the first stage of the kind whose stages together take the most multiply-adds."""
    sums: dict[Kind, float] = {}
    work = multiply_adds(plan)
    for stage in plan.stages:
        sums[kind_of(stage)] = sums.get(kind_of(stage), 0.0) + work[stage.ref]
    return max(plan.stages, key=lambda stage: sums[kind_of(stage)])


def is_worth_measuring(plan: Plan, fewest: Candidate, num_cpus: int) -> bool:
    """Returns whether measuring takes a small enough share of the plan's training; `fewest` has the fewest threads."""
    stage = costliest(plan)
    step = min(stage.recipe.optimizer.most_at_once * macs(stage), MOST_STEP_WORK)
    share = SHARE_OF_BUSY if fewest.threads * fewest.members >= num_cpus else SHARE_OF_IDLE
    return _MEASURING_WORK + _MEASURED_STEPS * step <= share * sum(multiply_adds(plan).values())


def is_worth_compiling(plan: Plan) -> bool:
    """Returns whether measuring the ways to compile a step on a GPU takes a small enough share of the training."""
    return SHARE_OF_IDLE * sum(multiply_adds(plan).values()) >= _COMPILING_WORK


def compile_mode(rates: Mapping[str, float]) -> str:
    """Returns the fastest of `COMPILE_MODES` by images per second; "off" if that has no rate, or the gain is small."""
    usual = rates.get("off", math.inf)
    best = max(rates, key=lambda mode: rates[mode], default="off")
    return best if rates.get(best, 0.0) > usual * (1 + MARGIN) else "off"


def member_bytes(stage: Stage, keep: KeptCheckpoint = KeptCheckpoint.last) -> float:
    """Estimates the memory of a process that trains `stage` and keeps what `keep` says, in bytes."""
    net = outline(stage.recipe.model, stage.num_classes)
    neurons = stage.recipe.optimizer.most_at_once * net.num_neurons
    # Weight, gradient and the weight in another precision; a checkpoint's copy; the optimizer's state, and its copy.
    # Gradients of the shards before. An average of the weights, and its copy.
    of_shards, averages = stage.recipe.optimizer.shards > 1, keep in (KeptCheckpoint.ema, KeptCheckpoint.swa)
    numbers = net.num_parameters * (4 + 2 * (stage.recipe.optimizer.num_states + averages) + of_shards)
    return _PROCESS_BYTES + numbers * _NUMBER_BYTES + neurons * _NEURON_BYTES


def largest_member(plan: Plan, keep: KeptCheckpoint) -> float:
    """Estimates the memory of the plan's largest member, in bytes."""
    return max((member_bytes(stage, keep) for stage in plan.stages), default=1.0)


def on_each(threads: int, rooms: Rooms, members: int) -> list[int]:
    """Returns the most of `members` that train on each machine, spread evenly; a machine alone takes at least one."""
    most = [max(int(len(rooms) == 1), min(slots, cpus // threads)) for cpus, slots in rooms]
    level = next(
        each for each in range(max(most) + 1) if each == max(most) or sum(min(each, n) for n in most) >= members
    )
    return [min(level, each) for each in most]


def most_members(plan: Plan, keep: KeptCheckpoint, memory_bytes: float, workers: int = 1) -> int:
    """Returns how many of the plan's members, of so many `workers` each, fit in `memory_bytes` at once, at least 1."""
    return max(1, min(len(plan.trained) * workers, int(memory_bytes * _MEMORY_SHARE / largest_member(plan, keep))))


def candidates(
    rooms: Rooms,
    members: int,
    precisions: Sequence[str],
    threads: int | None = None,
    workers: Sequence[int] = (1, 1),
) -> tuple[Candidate, ...]:
    """Returns the candidates, the default first; the first of `precisions` is the preferred one.

    The default is the most threads with which as many workers are at work as with one thread each. A number of threads
    that leaves no room for one member's fewest workers is none.

    Args:
        rooms: of the machines.
        members: of the plan, at least 1.
        precisions: to choose from.
        threads: the configured number a member.
        workers: the fewest and the most that compute a member together.
    """
    largest = max(cpus for cpus, _ in rooms)

    def at_once(count: int, wanted: int = members) -> int:
        return max(1, min(wanted, sum(on_each(count, rooms, wanted))))

    least, wanted = workers[0], members * workers[1]
    room = {count: at_once(count, wanted) for count in range(1, largest + 1)}
    filling = max(count for count in room if room[count] >= room[1])
    powers = {1 << exponent for exponent in range(largest.bit_length())}
    counts = sorted(count for count in {*powers, filling, largest} if room[count] >= min(least, room[1]))
    default = Candidate(threads or filling, at_once(threads or filling), precisions[0])
    every = [
        Candidate(count, at_once(count), each) for count in ([threads] if threads else counts) for each in precisions
    ]
    return (default, *(one for one in every if one != default))


def is_hopeless(candidate: Candidate, rates: Mapping[Candidate, float]) -> bool:
    """Returns whether the other precision is much faster than the candidate's, with fewer threads."""
    same = [known for known in rates if known.threads < candidate.threads and known.precision == candidate.precision]
    return any(
        rates[other] > HOPELESS * rates[known] for known in same for other in rates if other.threads == known.threads
    )


def options(plan: Plan, rates: Mapping[Candidate, float]) -> tuple[Option, ...]:
    """Returns an option for each rate of `costliest(plan)`; other kinds are scaled by their multiply-adds."""
    work, per_image = multiply_adds(plan), macs(costliest(plan))

    def seconds(candidate: Candidate, rate: float) -> float:
        of_each = {ref: amount / (rate / candidate.members * per_image) for ref, amount in work.items()}
        return estimate(plan, of_each, candidate.members).makespan_s

    return tuple(Option(candidate, rate, seconds(candidate, rate)) for candidate, rate in rates.items())


def choose(given: Sequence[Option], default: Candidate) -> Option:
    """Returns the option that takes the least time, or `default`, which must be among them, if the gain is small."""
    usual = next(option for option in given if option.candidate == default)
    best = min(given, key=lambda option: option.seconds)
    return best if best.seconds * (1 + MARGIN) < usual.seconds else usual


def reason(chosen: Option, given: Sequence[Option]) -> str:
    """Returns one line: the choice, its figures, and the next best."""
    others = sorted((option for option in given if option is not chosen), key=lambda option: option.seconds)
    more = f"; next best: {others[0].candidate}, {others[0].figures}" if others else ""
    return f"{chosen.candidate} ({chosen.figures}{more})"


def reserved_cpus(threads: int, num_cpus: int, members: int) -> int:
    """Returns the CPUs to reserve for each member, so that at most `members` run at once on `num_cpus`."""
    return min(num_cpus, max(threads, num_cpus // (members + 1) + 1))
