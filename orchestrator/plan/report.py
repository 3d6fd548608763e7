"""Writes what `septet plan` shows: stages with sizes, resources, disk, and time beside its lower bound."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.config import ClusterConfig
from orchestrator.plan.budget import budget_line
from orchestrator.plan.checks import remarks
from orchestrator.plan.halving import estimate_halved, rungs_in_words
from orchestrator.plan.model import Plan, Stage, StageRef, plain
from orchestrator.plan.schedule import Estimate
from orchestrator.plan.widths import ASSUMED, Widths
from orchestrator.text import counted, duration, size, table
from workers.models import outline
from workers.settings import HELD_OUT, Crops, Keep, KeptCheckpoint, StoreFormat, stored_image_bytes

KEPT_CHECKPOINTS = 3  # the best and the last two
_NUMBER_BYTES = 4  # float32
_PREDICTION_BYTES = 4
# Of a 95 % interval; the share of images that one of two rows gets wrong and the other right, as in our runs.
_TWO_SIDED, _DISAGREEING = 1.96, 0.2
_NUM_TEXTS = 3  # columns that are aligned to the left


@dataclass(frozen=True)
class StageReport:
    """Holds the size of one stage; `images_per_second` and `seconds` of training are None if no rate was measured.

    `num_trained_parameters` counts the layers that are not frozen.
    """

    stage: Stage
    num_parameters: int
    num_trained_parameters: int
    num_macs: int
    num_neurons: int
    images_per_second: float | None
    seconds: float | None


@dataclass(frozen=True)
class DiskEstimate:
    """Holds the bytes that the run would write."""

    checkpoints: int
    predictions: int
    stores: int

    @property
    def total(self) -> int:
        return self.checkpoints + self.predictions + self.stores


@dataclass(frozen=True)
class PlanReport:
    """Holds a plan with its costs; `time` is None if no rate was measured, an upper bound for a sweep that is halved.

    `placement` gives the reason for the members' threads and precision, `augmentation` what that costs. Stages that
    may end early count as if they ran to their last epoch. `budget` is a line on what ends within `budget.hours`.
    """

    plan: Plan
    stages: tuple[StageReport, ...]
    disk: DiskEstimate
    time: Estimate | None
    cluster: ClusterConfig
    num_slots: int
    placement: str = ""
    augmentation: str = ""
    budget: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns the document of `septet plan --json`."""
        return {
            "plan_hash": self.plan.hash,
            "experiment": self.plan.experiment,
            "stages": [_stage_json(report) for report in self.stages],
            "makespan_s": None if self.time is None else self.time.makespan_s,
            "lower_bound_s": None if self.time is None else self.time.lower_bound_s,
            "disk_bytes": self.disk.total,
            "members_at_once": self.num_slots,
            "workers_per_member": list(self.cluster.workers_per_member),
            "cpus_per_member": self.cluster.cpus_per_member,
            "gpus_per_member": self.cluster.gpus_per_member,
            "placement": self.placement,
            "augmentation": self.augmentation,
            "budget": self.budget,
            "warnings": remarks(self.plan),
            "declared": [dataset.name for dataset in self.plan.datasets if dataset.declared],
            "rungs": plain(self.plan.rungs),
            "outside": plain(self.plan.outside),
        }

    def to_text(self) -> str:
        """Returns a table of the stages, then resources, time and disk."""
        plan = self.plan
        heading = f"{plan.experiment}: {counted(len(plan.members), 'member')}, {counted(len(plan.stages), 'stage')}"
        lines = [f"{heading} · plan {plan.hash[:8]}", "", *_stage_table(self.stages), "", *_dataset_lines(plan)]
        for member, files in plan.outside.items():
            named = ", ".join(f"{split} {file.path} (sha256 {file.sha256[:12]})" for split, file in files.items())
            lines.append(f"{member}: from outside: {named}")
        cluster = self.cluster
        who = "member" if cluster.workers_per_member[-1] == 1 else "worker"
        lines.append(
            f"each {who}: {counted(cluster.cpus_per_member, 'CPU')}, {counted(cluster.gpus_per_member, 'GPU')}"
            f" · {counted(self.num_slots, who)} at once"
        )
        said = {"placement": self.placement, "augmentation": self.augmentation}
        lines += [f"{name}: {line}" for name, line in said.items() if line]
        lines += [*_width_lines(plan, cluster.workers_per_member, self.num_slots), *_precision_lines(plan)]
        if plan.rungs:
            lines.append(f"sweep_stop={rungs_in_words(plan)}")
        early = any(stage.may_end_early for stage in plan.stages)
        lines.append(_time_line(self.time, early=early, halved=bool(plan.rungs)))
        lines += [self.budget] if self.budget else []
        disk = self.disk
        lines.append(
            f"disk: {size(disk.total)} (checkpoints {size(disk.checkpoints)}, predictions "
            f"{size(disk.predictions)}, prepared datasets {size(disk.stores)})"
        )
        lines += remarks(plan)
        return "\n".join(lines) + "\n"


def _width_lines(plan: Plan, workers: Sequence[int], num_slots: int) -> list[str]:
    """Returns a line on the widths of members, or on slots that only wider members would use."""
    least, most = workers
    if most > 1:
        points = [point for point in ASSUMED if 1 < point[0] <= most]
        speed_ups, of = (", ".join(f"{point[n]:g}" for point in points) for n in (1, 0))
        assumed = f"speed-up {speed_ups} assumed for {of} workers" if points else "speed-ups assumed"
        return [f"widths: {least} to {most} workers a member ({assumed})"]
    idle = num_slots - len(plan.trained)
    # Shards make an update dearer, so they are not worth it for a few workers: nothing is said of plans without.
    if idle <= 0 or all(stage.recipe.optimizer.shards == 1 for stage in plan.stages):
        return []
    return [f"{counted(idle, 'slot')} idle: set cluster.workers_per_member=[1,8]"]


def _precision_lines(plan: Plan) -> list[str]:
    """Returns a line that says which differences between rows of the table its images can show."""
    counts = plan.target.counts
    split = next((split for split in ("val", "test") if counts.get(split)), None)
    if split is None:
        return []
    least = 100 * _TWO_SIDED * math.sqrt(_DISAGREEING / counts[split])
    images = f"{split}: {counted(counts[split], 'image')}"
    return [f"{images}: differences under {least:.1f} points between rows of the table cannot be told"]


def make_report(
    plan: Plan,
    cluster: ClusterConfig,
    num_slots: int,
    images_per_second: Mapping[StageRef, float] | None = None,
    placement: str = "",
    augmentation: str = "",
    keep: KeptCheckpoint = KeptCheckpoint.last,
    hours: float | None = None,
    crops: Crops = Crops.ten,
) -> PlanReport:
    """Estimates the cost of a plan.

    Args:
        plan: the plan.
        cluster: the CPUs and GPUs of each member.
        num_slots: members that fit at once, at least 1.
        images_per_second: each stage's measured training rate, or None if no rate was measured.
        placement: one line with the reason for the placement.
        augmentation: one line with the cost of changing images.
        keep: what predicts.
        hours: the budget of a launch, or None.
        crops: what members predict from.
    """
    stages = tuple(_stage_report(stage, images_per_second) for stage in plan.stages)
    seconds = {report.stage.ref: report.seconds for report in stages if report.seconds is not None}
    widths = Widths(*cluster.workers_per_member)
    time = estimate_halved(plan, seconds, num_slots, widths) if len(seconds) == len(stages) else None
    disk = disk_estimate(plan, keep)
    budget = "" if hours is None else budget_line(plan, seconds, hours, num_slots, crops)
    return PlanReport(plan, stages, disk, time, cluster, num_slots, placement, augmentation, budget)


def _stage_report(stage: Stage, rates: Mapping[StageRef, float] | None) -> StageReport:
    counts = outline(stage.recipe.model, stage.num_classes)
    rate = None if rates is None else rates[stage.ref]
    seconds = None if rate is None else stage.num_images * stage.recipe.schedule.epochs / rate
    trained = counts.num_trained(counts.select_all(stage.recipe.freeze))
    return StageReport(stage, counts.num_parameters, trained, counts.num_macs, counts.num_neurons, rate, seconds)


def disk_estimate(
    plan: Plan, keep: KeptCheckpoint = KeptCheckpoint.last, begun: Collection[StageRef] = ()
) -> DiskEstimate:
    """Returns the bytes that a run of the plan keeps at its end, without those of stages that have `begun`."""
    target = plan.target
    averages = keep in (KeptCheckpoint.ema, KeptCheckpoint.swa)
    num_numbers = sum(
        outline(stage.recipe.model, stage.num_classes).num_parameters
        * (1 + stage.recipe.optimizer.num_states + averages)
        * (KEPT_CHECKPOINTS + (stage.recipe.averaging.soup_checkpoints if keep is KeptCheckpoint.soup else 0))
        for stage in plan.stages
        if stage.ref not in begun
    )
    members = [member for member in plan.members if plan.last_stages.get(member) not in begun]
    predicted = len(members) * sum(target.counts.get(split, 0) for split in HELD_OUT)
    # Each in a fold of its own.
    predicted += sum(target.counts.get("train", 0) // own.k for own in map(plan.fold, members) if own.k)
    return DiskEstimate(
        checkpoints=num_numbers * _NUMBER_BYTES,
        predictions=predicted * target.num_classes * _PREDICTION_BYTES,
        stores=sum(sum(dataset.counts.values()) * _image_bytes(dataset.options) for dataset in plan.datasets),
    )


def _image_bytes(options: Mapping[str, str | int | float]) -> int:
    """Returns the bytes of a prepared image; the options name format and `keep` only if these are not the defaults."""
    store_format = StoreFormat(str(options.get("store_format", StoreFormat.raw)))
    keep = Keep(str(options.get("keep", Keep.centre)))
    return stored_image_bytes(int(options["size"]), store_format, int(options.get("jpeg_quality", 0)), keep)


def _stage_json(report: StageReport) -> dict[str, Any]:
    stage = report.stage
    return {
        "member": stage.ref.member,
        "stage": stage.ref.stage,
        "init_from": _init_from(stage),
        "refit": stage.recipe.refit,
        "dataset": stage.recipe.dataset,
        "num_images": stage.num_images,
        "num_classes": stage.num_classes,
        "epochs": stage.recipe.schedule.epochs,
        "num_updates": stage.num_updates,
        "may_end_early": stage.may_end_early,
        "num_parameters": report.num_parameters,
        "num_trained_parameters": report.num_trained_parameters,
        "num_macs": report.num_macs,
        "num_neurons": report.num_neurons,
        "images_per_second": report.images_per_second,
        "teachers": plain(stage.teachers),
    }


def _init_from(stage: Stage) -> str | None:
    """Returns the start of a stage: `<stage>` of the same member, else `<member>.<stage>`, or the name of a file."""
    if stage.init_file is not None:
        return stage.init_file.name
    if stage.init_from is None or stage.init_from.member == stage.ref.member:
        return None if stage.init_from is None else stage.init_from.stage
    return f"{stage.init_from.member}.{stage.init_from.stage}"


def _start(stage: Stage) -> str:
    start = str(stage.init_from or _init_from(stage) or "–")
    if stage.teachers:
        return f"{start}, taught by {counted(len(stage.teachers), 'member')}"
    return start if stage.refit is None else f"{start}, epochs of {stage.refit}"


def _stage_table(reports: Sequence[StageReport]) -> list[str]:
    stages = [report.stage for report in reports]
    columns = {
        "stage": [str(stage.ref) for stage in stages],
        "starts from": [_start(stage) for stage in stages],
        "dataset": [stage.recipe.dataset for stage in stages],
        "classes": [f"{stage.num_classes:,}" for stage in stages],
        "images": [f"{stage.num_images:,}" for stage in stages],
        "epochs": [str(stage.recipe.schedule.epochs) for stage in stages],
        "updates": [f"{stage.num_updates:,}" for stage in stages],
        "parameters": [f"{report.num_parameters:,}" for report in reports],
        "multiply-adds": [f"{report.num_macs:,}" for report in reports],
        "neurons": [f"{report.num_neurons:,}" for report in reports],
    }
    if any(report.num_trained_parameters != report.num_parameters for report in reports):
        columns["trained"] = [f"{report.num_trained_parameters:,}" for report in reports]
    if all(report.seconds is not None for report in reports):
        columns["images/s"] = [f"{report.images_per_second:,.0f}" for report in reports]
        columns["time"] = [duration(report.seconds or 0.0) for report in reports]
    return table(zip(*([name, *cells] for name, cells in columns.items()), strict=True), _NUM_TEXTS)


def _dataset_lines(plan: Plan) -> list[str]:
    lines = []
    for dataset in plan.datasets:
        counts = ", ".join(f"{split} {num:,}" for split, num in dataset.counts.items())
        note = " (images absent: these are the dataset's declared counts)" if dataset.declared else ""
        classes = counted(dataset.num_classes, "class")
        lines.append(f"{dataset.name}: {classes} at {dataset.options['size']} px; {counts}{note}")
    return lines


def _time_line(time: Estimate | None, *, early: bool, halved: bool) -> str:
    if time is None:
        return "training: no rate measured, so no time is given"
    makespan, bound = duration(time.makespan_s), duration(time.lower_bound_s)
    if halved:
        return f"training: at most about {makespan}, the time if at each rung the costliest points continue"
    if early:
        return f"training: at most about {makespan} (no schedule beats {bound}), less where a stage ends early"
    return f"training: about {makespan}; no schedule beats {bound}"
