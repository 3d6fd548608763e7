"""How many members a machine trains at once, with how many threads each, in which precision: a choice by figures. Pure.

What is compared is the time that training the whole plan would take, and not images a second alone: with seven
members, two at once end in an odd one out, and rates side by side say nothing of that.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.plan import Plan, Stage, estimate, multiply_adds
from orchestrator.text import counted, duration
from workers.models import outline
from workers.settings import ModelSettings

# One thread a member is what any other machine would take too: what is to replace it must be faster by this share,
# which noise is not.
MARGIN = 0.05
# What lies further apart than this is not going to change places with more threads, or measured again.
HOPELESS = 1.25
# The share of a plan's training that measuring may take. Where the default keeps all cores at work, what else there is
# was within a tenth of it on every machine seen: that is soon spent. Where it leaves some idle, much may be won.
SHARE_OF_BUSY = 0.01
SHARE_OF_IDLE = 0.1
# Forward multiply-adds of one step that is measured: two seconds or so of a core, 128 full-size images. With smaller
# batches the traffic of weights counts for too much, and members side by side look slower than they are.
MOST_STEP_WORK = 1e11
# Measuring took 7 s for nets of small steps on two cores, and 42 s for the full-size one: forward multiply-adds of what
# these cores train meanwhile.
_MEASURING_WORK = 3e11
_MEASURED_STEPS = 25
_FULL_MEMORY_SHARE = 0.8
_PROCESS_BYTES = 600e6
# Weight, gradient, momentum, the weight in another precision; a checkpoint's copies of weight and momentum.
_STATE_BYTES = 6 * 4
# Of a neuron and image. A full-size member was seen to take 0.6 GB for 128 images besides its weights.
_ACTIVATION_BYTES = 8


@dataclass(frozen=True, order=True)
class Candidate:
    """`members` train side by side with `threads` each."""

    threads: int
    members: int
    precision: str

    @property
    def terms(self) -> str:
        """What each member gets, in words."""
        return f"{counted(self.threads, 'thread')} each, {self.precision}"

    def __str__(self) -> str:
        return f"{counted(self.members, 'member')} at once, {self.terms}"


@dataclass(frozen=True)
class Figure:
    """What was measured of a candidate: `images_per_second` of all its members together."""

    candidate: Candidate
    images_per_second: float


@dataclass(frozen=True)
class Option:
    """A figure and what it comes to: `seconds` of training for the whole plan."""

    figure: Figure
    seconds: float

    @property
    def candidate(self) -> Candidate:
        return self.figure.candidate

    def __str__(self) -> str:
        return f"{self.candidate}: {_told(self)}"


@dataclass(frozen=True)
class Kind:
    """What the time of a step depends on."""

    model: ModelSettings
    batch_size: int
    num_classes: int


def kind_of(stage: Stage) -> Kind:
    """The kind of `stage`: not how many epochs there are, nor how large its steps."""
    return Kind(stage.recipe.model, stage.recipe.optimizer.batch_size, stage.num_classes)


def costliest(plan: Plan) -> Stage:
    """A stage of the kind that all together take the most multiply-adds; of equals the first."""
    work = multiply_adds(plan)
    sums: dict[Kind, float] = {}
    for stage in plan.stages:
        sums[kind_of(stage)] = sums.get(kind_of(stage), 0.0) + work[stage.ref]
    return max(plan.stages, key=lambda stage: sums[kind_of(stage)])


def is_worth_measuring(plan: Plan, default: Candidate, num_cpus: int) -> bool:
    """Whether measuring takes little enough of the plan's training, for what it may win over `default`."""
    stage = costliest(plan)
    num_macs = outline(stage.recipe.model, stage.num_classes).num_macs
    measuring = _MEASURING_WORK + _MEASURED_STEPS * min(stage.recipe.optimizer.batch_size * num_macs, MOST_STEP_WORK)
    share = SHARE_OF_BUSY if default.threads * default.members >= num_cpus else SHARE_OF_IDLE
    return measuring <= share * sum(multiply_adds(plan).values())


def member_bytes(stage: Stage) -> float:
    """About what a process takes that trains `stage`."""
    size = outline(stage.recipe.model, stage.num_classes)
    activations = stage.recipe.optimizer.batch_size * size.num_neurons * _ACTIVATION_BYTES
    return _PROCESS_BYTES + size.num_parameters * _STATE_BYTES + activations


def most_members(plan: Plan, memory_bytes: float) -> int:
    """How many members `memory_bytes` can hold at once, at least 1 and at most the plan's."""
    largest = max(member_bytes(stage) for stage in plan.stages)
    return max(1, min(len(plan.members), int(memory_bytes * _FULL_MEMORY_SHARE / largest)))


def candidates(
    num_cpus: int, members: int, precisions: Sequence[str], threads: int | None = None
) -> tuple[Candidate, ...]:
    """What there is to choose from, the default first.

    Args:
        num_cpus: the machine's.
        members: the most that memory and plan allow at once, at least 1.
        precisions: the ones this machine is good at, the preferred one first.
        threads: a member's where that is settled, else None.
    """
    counts = [threads] if threads else sorted({*_powers_of_two(num_cpus), max(1, num_cpus // members), num_cpus})
    return tuple(
        Candidate(count, max(1, min(members, num_cpus // count)), precision)
        for count in counts
        for precision in precisions
    )


def is_hopeless(candidate: Candidate, figures: Iterable[Figure]) -> bool:
    """Whether what is measured already rules `candidate` out: the other precision is far ahead at fewer threads."""
    rates: dict[int, dict[str, float]] = {}
    for figure in figures:
        if figure.candidate.threads < candidate.threads:
            rates.setdefault(figure.candidate.threads, {})[figure.candidate.precision] = figure.images_per_second
    return any(
        candidate.precision in of and max(of.values()) > HOPELESS * of[candidate.precision] for of in rates.values()
    )


def options(plan: Plan, figures: Iterable[Figure]) -> tuple[Option, ...]:
    """What each figure, measured on `costliest(plan)`, comes to; stages of other kinds go by their multiply-adds."""
    measured = costliest(plan)
    macs = outline(measured.recipe.model, measured.num_classes).num_macs
    work = multiply_adds(plan)
    found = []
    for figure in figures:
        members = figure.candidate.members
        rate = figure.images_per_second / members * macs
        seconds = {ref: multiply_adds / rate for ref, multiply_adds in work.items()}
        found.append(Option(figure, estimate(plan, seconds, members).makespan_s))
    return tuple(found)


def choose(given: Sequence[Option], default: Candidate) -> Option:
    """The option that takes the least time, if by more than a margin; else `default`, which must be among them."""
    usual = next(option for option in given if option.candidate == default)
    best = min(given, key=lambda option: option.seconds)
    return best if best.seconds * (1 + MARGIN) < usual.seconds else usual


def reason(chosen: Option, given: Sequence[Option]) -> str:
    """One line: what was chosen, its figures, and the next best."""
    others = [option for option in given if option is not chosen]
    line = f"{chosen.candidate} ({_told(chosen)}"
    if others:
        next_best = min(others, key=lambda option: option.seconds)
        line += f"; next best: {next_best.candidate}, {_told(next_best)}"
    return line + ")"


def reserved_cpus(threads: int, num_cpus: int, members: int) -> int:
    """The CPUs to set aside for each member, so that no more than `members` run at once on `num_cpus`."""
    return min(num_cpus, max(threads, num_cpus // (members + 1) + 1))


def _told(option: Option) -> str:
    return f"{option.figure.images_per_second:,.0f} images/s together, {duration(option.seconds)} of training"


def _powers_of_two(most: int) -> list[int]:
    return [1 << exponent for exponent in range(most.bit_length()) if 1 << exponent <= most]
