"""Halves a sweep: all its points train to a rung, the best continue from there, the others end. Pure.

It is synchronous successive halving (Jamieson & Talwalkar 2016; Li et al. 2017): a rung is decided when the last point
has reached it, so no result depends on who was first. Stages before a member's last one are trained to their end.
"""

from collections.abc import Mapping

from orchestrator.plan.model import Plan, Rung, StageRef
from orchestrator.plan.schedule import Estimate
from orchestrator.plan.widths import Widths, estimate_moldable
from workers.errors import ConfigError


def make_rungs(plan: Plan, num_rungs: int, eta: int) -> tuple[Rung, ...]:
    """Returns the rungs of a plan whose members are the points of a sweep; at each, one point in `eta` continues.

    Raises:
        ConfigError: the points or their epochs do not suffice for so many rungs, or no images tell a dev error.
    """
    rungs = tuple(Rung(eta ** (num_rungs - n), max(1, len(plan.members) // eta ** (n + 1))) for n in range(num_rungs))
    key = f"sweep_rungs={num_rungs}, sweep_eta={eta}"
    if rungs and 1 in (len(plan.members), *(rung.kept for rung in rungs[:-1])):
        enough = 2 * eta ** (num_rungs - 1)
        raise ConfigError(f"{key}: too few points ({len(plan.members)}); give {enough}, fewer rungs or a smaller eta")
    for stage in map(plan.last_stage, plan.members if rungs else ()):
        epochs = [*(rung.epochs(stage) for rung in rungs), stage.recipe.schedule.epochs]
        if len(set(epochs)) < len(epochs):
            raise ConfigError(f"{key}: {stage.ref} has too few epochs; give it {eta**num_rungs}, or fewer rungs")
    if rungs and (plan.refits or not plan.target.holds_out):
        instead = "sweep without a refit" if plan.refits else "raise datasets.target.dev_fraction above 0"
        raise ConfigError(f"sweep_stop=halving: decides by dev error; {instead}")
    return rungs


def choose_best(plan: Plan, rung: Rung, errors: Mapping[StageRef, float]) -> tuple[StageRef, ...]:
    """Returns the points that continue from `rung`, by their `errors` on dev; the stage's hash orders equal ones."""
    return tuple(sorted(errors, key=lambda ref: (errors[ref], plan.stage(ref).hash))[: rung.kept])


def rungs_in_words(plan: Plan) -> str:
    """Returns words like `halving: of 9 points, the best 3 from 1/9 of the epochs on, the best 1 from 1/3 …`."""
    steps = (f"the best {rung.kept} from 1/{rung.part} of the epochs on" for rung in plan.rungs)
    return ", ".join((f"halving: of {len(plan.members)} points", *steps)) if plan.rungs else "none"


def estimate_halved(plan: Plan, seconds: Mapping[StageRef, float], num_slots: int, widths: Widths) -> Estimate:
    """Returns `estimate_moldable` from rung to rung, with the costliest points continuing each time: an upper bound."""
    points = sorted(plan.last_stages.values(), key=lambda ref: -seconds[ref])
    left, pieces = dict(seconds), []
    for rung in plan.rungs:
        stages = map(plan.stage, points)
        after = {one.ref: seconds[one.ref] * (1 - rung.epochs(one) / one.recipe.schedule.epochs) for one in stages}
        until = {ref: cost - after.get(ref, 0.0) for ref, cost in left.items()}
        pieces.append(estimate_moldable(plan, until, num_slots, widths))
        points = points[: rung.kept]
        left = {ref: after[ref] if ref in points else 0.0 for ref in seconds}
    pieces.append(estimate_moldable(plan, left, num_slots, widths))
    return Estimate(sum(one.makespan_s for one in pieces), sum(one.lower_bound_s for one in pieces))
