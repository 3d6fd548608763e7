"""Finds members that a submission must do without, and checks that `submission.min_members` allows it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.combine.predictions import Expected, Flaw, Invalid, check_predictions
from orchestrator.config import CombineConfig, SubmissionConfig, choices
from orchestrator.plan import Job, Plan, TrainJob
from orchestrator.run import Contents, RunData, RunPaths, State, find_finished, read_ledger
from workers.errors import ConfigError, MemberFailed

LEFT_OUT = "left out by combine.without"
STUDENT = "a student, which learns from the ensemble and is not averaged"


@dataclass(frozen=True)
class Missing:
    """A member of the plan that an ensemble does without, and why."""

    member: str
    why: str


def left_out(config: CombineConfig, plan: Plan, paths: RunPaths | None = None) -> tuple[Missing, ...]:
    """Returns the students, and the members that `combine.without` names, itself or by their recipe; of a run in
    `paths`, also those that a rung of a sweep or `ensemble.admit` ended.

    Raises:
        ConfigError: the plan has no such member, or none of `combine.weights`, or none would be left.
    """
    for key, names in (("without", config.without), ("weights", config.weights)):
        for name in names:
            if name not in plan.members and name not in plan.voters.values():
                raise ConfigError(f"combine.{key}: the ensemble has no member {name}; {choices(name, plan.members)}")
            if name in plan.students:
                raise ConfigError(f"combine.{key}: {name} is {STUDENT}; remove it")
    named = {name for name, recipe in plan.voters.items() if not {name, recipe}.isdisjoint(config.without)}
    gone = [Missing(name, LEFT_OUT) for name in plan.members if name in named]
    ledger = read_ledger(paths.ledger) if paths else Contents()
    for member, ref in plan.last_stages.items():
        entry, decision = ledger.entry(TrainJob(ref)), ledger.not_admitted.get(member)
        if member in named:
            continue
        if member in plan.students:
            gone.append(Missing(member, _why_no_student(paths, plan, member, ledger) if paths else STUDENT))
        elif decision:
            gone.append(Missing(member, str(decision)))
        elif entry.state is State.ended:
            errors = ", ".join(f"{error:.1%}" for error in entry.rungs) or "none"
            gone.append(Missing(member, f"ended by sweep_stop=halving; dev error at its rungs: {errors}"))
    if len(gone) == len(plan.members):
        raise ConfigError("combine.without: leaves no member to combine; leave out fewer")
    return tuple(gone)


def weights_of(config: CombineConfig, members: Sequence[str], recipes: Mapping[str, str]) -> tuple[float, ...]:
    """Returns the weights of `members` as `combine.weights` gives them, by name or by recipe; they sum to 1.

    Raises:
        ConfigError: all are 0.
    """
    given = [float(config.weights.get(name, config.weights.get(recipes[name], 1.0))) for name in members]
    if not any(given):
        raise ConfigError("combine.weights: all members have 0; give one of them more")
    return tuple(weight / sum(given) for weight in given)


def check_min_members(config: SubmissionConfig, plan: Plan) -> None:
    """Raises ConfigError if `min_members` is more than the plan has, or than its sweep keeps."""
    most = min(len(plan.members), plan.rungs[-1].kept) if plan.rungs else len(plan.members)
    if config.min_members is not None and config.min_members > most:
        raise ConfigError(
            f"submission.min_members={config.min_members}: the ensemble has {most} members; give at most that, or null"
        )


def allowed_missing(paths: RunPaths, plan: Plan, data: RunData, config: SubmissionConfig) -> tuple[Missing, ...]:
    """Returns the members to do without; none if `min_members` is not set, as then all are required.

    Raises:
        MemberFailed: fewer than `min_members` are present.
        ConfigError: as `check_min_members`.
    """
    check_min_members(config, plan)
    if config.min_members is None:
        return ()
    missing = find_missing(paths, plan, data)
    num_present = len(plan.members) - len(missing)
    if num_present < config.min_members:
        raise MemberFailed(
            f"{paths.root}: no submission: {num_present} of {len(plan.members)} members have predictions, "
            f"submission.min_members={config.min_members}; missing {in_words(missing)}"
        )
    return missing


def find_missing(paths: RunPaths, plan: Plan, data: RunData) -> tuple[Missing, ...]:
    """Returns the members whose last stage is not done, or whose predictions are missing or do not belong to it."""
    ledger = read_ledger(paths.ledger)
    splits = tuple(data.splits)
    return tuple(
        Missing(member, why)
        for member in plan.members
        if (why := _why(paths, plan, member, splits, data.digest, ledger)) is not None
    )


def without(plan: Plan, missing: Sequence[Missing]) -> Plan:
    """Returns the plan with the members that are combined; stages stay, since others may start from them."""
    gone = {*plan.students, *(one.member for one in missing)}
    return replace(plan, members=tuple(member for member in plan.members if member not in gone)) if gone else plan


def in_words(missing: Sequence[Missing]) -> str:
    """Returns a line like `base3 (base3/train: Diverged: …), base4 (…)`."""
    return ", ".join(f"{one.member} ({one.why})" for one in missing)


def _why(paths: RunPaths, plan: Plan, member: str, splits: Sequence[str], digest: str, ledger: Contents) -> str | None:
    """Returns why `member` is missing, or None if it is present; a launch stores one from outside before it trains."""
    if member in plan.outside:
        return None
    last = plan.last_stage(member)
    finished = find_finished(paths, last)
    if finished is None:
        chain = [*reversed(plan.ancestors(last)), last]
        failures = _failures(ledger, [TrainJob(stage.ref) for stage in chain])
        return next(failures, f"its last stage {last.ref.stage} is not finished")
    for split in splits:
        expected = Expected(digest, finished=finished)
        found = check_predictions(member, paths.predictions(member), split, expected, read=False)
        # Damaged predictions are not missing: opening them raises an error.
        if isinstance(found, Invalid) and found.flaw is not Flaw.damaged:
            failures = _failures(ledger, [plan.predict_job(member)])
            return next(failures, f"no predictions of {split} by its last checkpoint")
    return None


def _why_no_student(paths: RunPaths, plan: Plan, member: str, ledger: Contents) -> str:
    """Returns what failed before a student could be scored; if nothing has, that it is one."""
    last = plan.last_stage(member)
    jobs = [*sorted(plan.requires(last), key=str), plan.predict_job(member)]
    unfinished = "" if find_finished(paths, last) else f"its last stage {last.ref.stage} is not finished"
    return next(_failures(ledger, jobs), unfinished or STUDENT)


def _failures(ledger: Contents, jobs: Sequence[Job]) -> Iterator[str]:
    for job in jobs:
        entry = ledger.entry(job)
        if entry.state is State.failed:
            yield f"{job}: {entry.attempts[-1].error}"
