"""Holds the state of a run as its files tell it, and puts it into words."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from orchestrator.cluster import Where
from orchestrator.plan import Stage
from orchestrator.run.ledger import Entry, State
from orchestrator.run.metrics import Point, read_tail
from orchestrator.run.paths import RunPaths
from orchestrator.text import duration
from workers.errors import some
from workers.storage import Finished, read_finished

_BLOCK_BYTES = 32 * 1024
_MOST_TAIL_BYTES = 4 * 1024 * 1024
# Ten minutes are short enough to follow a machine that slows down, and long enough to span an evaluation.
_RATE_WINDOW_S = 600.0
# A stage below this share of its usual rate is reported; the usual rate needs at least so many rates.
_STRAGGLING = 0.5
_FEWEST_RATES = 5
_OVER = (State.done, State.ended)
# A metric of each epoch's end.
_AT_CHANCE = "at_chance"


@dataclass(frozen=True)
class Course:
    """The latest values in a stage's metrics.jsonl; unknown values are None.

    `data_wait` is the share of training time spent waiting for the next batch, in [0, 1]. `share_of_usual_rate` is the
    latest rate divided by this attempt's median.
    """

    step: int = 0
    epoch: float = 0.0
    val_error: float | None = None
    images_per_second: float | None = None
    data_wait: float | None = None
    updates_per_second: float | None = None
    at_chance: bool = False
    share_of_usual_rate: float | None = None


@dataclass(frozen=True, kw_only=True)
class StageStatus(Course):
    """The state of one stage. Errors are in [0, 1]; unknown values are None.

    If the stage `may_end_early`, then `num_updates`, `num_epochs` and `remaining_s` are upper bounds. `passed_nans` are
    updates whose NaN did not return in a replay, met on `nan_nodes`. It `waits_for` the predictions of members that it
    learns from, or for a machine. `where` is the place of the last attempt, of its first worker, or of the one
    that failed, and `width` counts its workers.
    """

    member: str
    stage: str
    state: State
    num_updates: int
    num_epochs: int
    batch_size: int
    remaining_s: float | None = None
    error: str | None = None
    may_end_early: bool = False
    passed_nans: tuple[int, ...] = ()
    waits_for: tuple[str, ...] = ()
    where: Where | None = None
    nan_nodes: tuple[str, ...] = ()
    waits_for_machine: bool = False
    width: int = 1

    @property
    def remarks(self) -> tuple[str, ...]:
        """Returns remarks for a person, besides the figures."""
        remarks = ["is still at chance"] if self.at_chance else []
        if self.passed_nans:
            steps = ", ".join(map(str, self.passed_nans))
            where = f" on {' and '.join(self.nan_nodes)}" if self.nan_nodes else ""
            remarks.append(f"met NaN at update {steps}{where}, but not when replayed: check the hardware")
        if self.waits_for:
            remarks.append(f"waits for the predictions of {some(self.waits_for)}")
        if self.waits_for_machine:
            remarks.append("waiting for a machine")
        share = self.share_of_usual_rate
        if self.state is State.running and share is not None and share < _STRAGGLING:
            remarks.append(f"is down to {share:.0%} of its usual rate")
        return tuple(remarks)

    @property
    def time_left(self) -> str:
        """Returns `remaining_s` in words, for a stage that has one."""
        return ("at most " if self.may_end_early else "") + duration(self.remaining_s or 0.0)


@dataclass(frozen=True)
class RunStatus:
    """The state of a run; `stages` are in the plan's order. `left_out` has a line for each node that is not used.

    `budget_left_s` is what a running launch has left of its `budget.hours`.
    """

    name: str
    state: State
    stages: tuple[StageStatus, ...]
    left_out: tuple[str, ...] = ()
    budget_left_s: float | None = None

    @property
    def num_done(self) -> int:
        return sum(stage.state in _OVER for stage in self.stages)

    @property
    def budget(self) -> tuple[str, ...]:
        """Words on `budget_left_s`, if it is known."""
        return () if self.budget_left_s is None else (f"budget: {duration(self.budget_left_s)} left",)

    @property
    def images_per_second(self) -> float:
        """Returns the rate of all running stages together."""
        return sum(stage.images_per_second or 0.0 for stage in self.stages if stage.state is State.running)

    @property
    def share(self) -> float:
        """Returns the share of training images processed, in [0, 1]; a finished stage counts in full."""
        total = sum(stage.num_updates * stage.batch_size for stage in self.stages)
        left = sum(_images_left(stage) for stage in self.stages)
        return 1.0 - left / total if total else 1.0

    @property
    def remaining_s(self) -> float | None:
        """Returns an upper bound of the remaining training time, at the present rate of all stages together."""
        left = sum(_images_left(stage) for stage in self.stages)
        if not left:
            return 0.0
        rates = [
            (stage.num_updates - stage.step) * stage.batch_size / stage.remaining_s
            for stage in self.stages
            if stage.state is State.running and stage.remaining_s
        ]
        return left / sum(rates) if rates else None


def find_finished(paths: RunPaths, stage: Stage) -> Finished | None:
    """Reads the stage's DONE.json, which alone says that a stage is done.

    Returns None if there is none, or if it is of another stage hash; raises StorageError if it is damaged.
    """
    if not paths.done(stage.ref).exists():
        return None
    finished = read_finished(paths.stage(stage.ref))
    return finished if finished.stage_hash == stage.hash else None


def stage_status(stage: Stage, *, entry: Entry, course: Course, finished: Finished | None, locked: bool) -> StageStatus:
    """Returns one stage's status, from its ledger `entry`, its metrics and its DONE.json."""
    state = State.done if finished and entry.state is not State.ended else state_of(entry.state, locked)
    step = finished.num_updates if finished else course.step
    is_open = bool(entry.attempts) and entry.attempts[-1].outcome is None
    remaining_s = None
    if state is State.running and course.updates_per_second:
        remaining_s = max(0, stage.num_updates - step) / course.updates_per_second
    latest: dict[str, Any] = {"step": step, "at_chance": entry.at_chance or course.at_chance}
    if finished:
        latest |= {"val_error": finished.val_error, "at_chance": finished.at_chance}
    return StageStatus(
        **{**asdict(course), **latest},
        member=stage.ref.member,
        stage=stage.ref.stage,
        state=state,
        num_updates=stage.num_updates,
        num_epochs=stage.recipe.schedule.epochs,
        batch_size=stage.recipe.optimizer.batch_size,
        remaining_s=remaining_s,
        error=None if state is State.done else last_error(entry),
        may_end_early=stage.may_end_early,
        passed_nans=entry.passed_nans,
        nan_nodes=tuple(
            dict.fromkeys(
                one.where.machine for one in entry.attempts if one.where and one.diverged_at in entry.passed_nans
            )
        ),
        where=entry.attempts[-1].where if entry.attempts else None,
        waits_for_machine=locked and state is State.waiting and is_open,
        width=entry.attempts[-1].width if entry.attempts else 1,
    )


def read_course(metrics: Path, since: float = 0.0) -> Course:
    """Reads the end of a metrics.jsonl, as many blocks as are needed to find the end of an epoch.

    `since` (Unix seconds) is the start of the present attempt: rates must not span a time in which nothing ran.
    """
    num_bytes = _BLOCK_BYTES
    while True:
        points, whole = read_tail(metrics, num_bytes)
        if whole or num_bytes >= _MOST_TAIL_BYTES or any(_AT_CHANCE in point.metrics for point in points):
            return course_of(points, since)
        num_bytes *= 4


def course_of(points: Sequence[Point], since: float = 0.0) -> Course:
    """Returns the latest values in `points`, oldest first."""
    if not points:
        return Course()
    latest: dict[str, float] = {}
    for point in points:
        latest.update(point.metrics)
    end = points[-1]
    recent = [point for point in points if point.time >= max(since, end.time - _RATE_WINDOW_S)]
    # The stage's own rates are the measure, since usual rates differ between members.
    rates = [each for point in points if point.time >= since and (each := point.metrics.get("images_per_second"))]
    rate = None
    if recent and recent[-1].time > recent[0].time:
        rate = (recent[-1].step - recent[0].step) / (recent[-1].time - recent[0].time)
    return Course(
        step=end.step,
        epoch=end.epoch,
        val_error=latest.get("val/top1_error"),
        images_per_second=latest.get("images_per_second"),
        data_wait=latest.get("data_wait"),
        updates_per_second=rate or None,
        at_chance=bool(latest.get(_AT_CHANCE, 0.0)),
        share_of_usual_rate=rates[-1] / median(rates) if len(rates) >= _FEWEST_RATES else None,
    )


def status_json(status: RunStatus) -> dict[str, Any]:
    """Returns the document of `septet status --json`."""
    stages = [{**asdict(stage), "node": stage.where and stage.where.node} for stage in status.stages]
    return asdict(status) | {"stages": stages, "share": status.share, "remaining_s": status.remaining_s}


def status_lines(status: RunStatus) -> tuple[str, ...]:
    """Returns one line for the run, then one for each stage, in columns, and one for each node that is not used."""
    width = max((len(f"{stage.member}/{stage.stage}") for stage in status.stages), default=0)
    return (run_line(status), *(stage_line(stage, width) for stage in status.stages), *status.left_out)


def run_line(status: RunStatus) -> str:
    """Returns a line like `digits-1a2b3c4d: running, 42%, 3 of 9 stages done, 1,234 images/s, 2 min 05 s left`."""
    parts = [f"{status.name}: {status.state}", f"{status.share:.0%}"]
    parts.append(f"{status.num_done} of {len(status.stages)} stages done")
    return ", ".join((*parts, *pace(status), *status.budget))


def pace(status: RunStatus) -> tuple[str, ...]:
    """Returns the speed and remaining time of a running run, as far as they are known."""
    if status.state is not State.running:
        return ()
    if status.num_done == len(status.stages):
        return ("predicting and combining",)
    if not status.images_per_second:
        return ()
    rate = f"{status.images_per_second:,.0f} images/s"
    if status.remaining_s is None:
        return (rate,)
    early = any(stage.may_end_early for stage in status.stages if stage.state not in _OVER)
    return (rate, f"{'at most ' if early else ''}{duration(status.remaining_s)} left")


def stage_line(stage: StageStatus, width: int = 0) -> str:
    """Returns one stage as a line of aligned columns; `width` is that of the widest `member/stage`."""
    line = f"{f'{stage.member}/{stage.stage}':<{width}}  {stage.state:<11}  {stage.step}/{stage.num_updates} updates"
    if stage.val_error is not None:
        line += f"  val error {stage.val_error:.1%}"
    if stage.state is State.running:
        line += f"  epoch {stage.epoch:.1f}/{stage.num_epochs}"
        if stage.images_per_second is not None:
            line += f"  {stage.images_per_second:,.0f} images/s"
        if stage.data_wait is not None:
            line += f"  {stage.data_wait:.0%} waiting for data"
        if stage.remaining_s is not None:
            line += f"  {stage.time_left} left"
    if stage.width > 1:
        line += f"  {stage.width} workers"
    if stage.where:
        line += f"  on {stage.where if stage.state is State.running else stage.where.machine}"
    if stage.at_chance:
        line += "  STILL AT CHANCE"
    for remark in stage.remarks[stage.at_chance :]:
        line += f"  {remark}"
    if stage.error:
        line += f"  {stage.error}"
    return line


def last_error(entry: Entry) -> str | None:
    return (entry.attempts[-1].error or None) if entry.attempts else None


def _images_left(stage: StageStatus) -> int:
    return 0 if stage.state in _OVER else max(0, stage.num_updates - stage.step) * stage.batch_size


def state_of(recorded: State, locked: bool) -> State:
    return State.interrupted if recorded is State.running and not locked else recorded
