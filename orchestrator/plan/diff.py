"""Compares a wanted plan with the one that a run recorded. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from orchestrator.config import shown
from orchestrator.plan.halving import rungs_in_words
from orchestrator.plan.model import OutsideFile, Plan, PlannedDataset, Stage, StageRef, plain
from workers.errors import some
from workers.settings import Decay

_SHOWN_STAGES = 3


# How a wanted plan relates to the recorded one.
ChangeKind = StrEnum("ChangeKind", "same extends differs")


@dataclass(frozen=True)
class Change:
    """Holds a comparison; `lines` name the new stages (extends) or each difference, old → new (differs).

    `lengthened` stages train on for more epochs; the bits are those of a stage that had as many from the start.
    `replaced` names files of members from outside whose content is another.
    """

    kind: ChangeKind
    lines: tuple[str, ...]
    lengthened: tuple[StageRef, ...] = ()
    replaced: tuple[str, ...] = ()


def compare(recorded: Plan, wanted: Plan) -> Change:
    """Returns whether `wanted` is the same as `recorded`, only adds stages or epochs to it, or differs from it."""
    old, new = recorded.by_ref, wanted.by_ref
    longer = [ref for ref, stage in old.items() if ref in new and _is_longer(stage, new[ref])]
    bound = {ref: why for ref in longer if (why := _why_bound(new[ref], wanted))}
    added = tuple(f"new stage {ref}" for ref in new if ref not in old)
    added += tuple(f"{ref}: more epochs" for ref in longer)
    before, now = _outside_files(recorded), _outside_files(wanted)
    added += tuple(f"new {key}" for key in now if key not in before)
    replaced = tuple(
        f"the content of {key} (sha256 {before[key].sha256[:12]} → {now[key].sha256[:12]})"
        for key in before
        if key in now and now[key].sha256 != before[key].sha256
    )
    # Its decisions compared all of its points.
    halved = recorded.rungs != wanted.rungs or bool(added and wanted.rungs)
    kept = all(ref in new and (new[ref].hash == stage.hash or ref in longer) for ref, stage in old.items())
    if kept and not bound and not halved and before.keys() <= now.keys():
        return Change(ChangeKind.extends if added else ChangeKind.same, added, tuple(longer), replaced)
    lines = [f"sweep_stop: {rungs_in_words(recorded)} → {rungs_in_words(wanted)}"] if halved else []
    lines += [f"{ref} cannot be trained for longer, since {why}" for ref, why in bound.items()]
    lines += [f"{ref}: recorded, no longer wanted" for ref in old if ref not in new]
    lines += [f"{key}: recorded, no longer wanted" for key in before if key not in now]
    lines += _dataset_lines(recorded, wanted)
    changed = [(stage, new[ref]) for ref, stage in old.items() if ref in new and new[ref].hash != stage.hash]
    lines += _stage_lines(changed)
    return Change(ChangeKind.differs, tuple(lines) or ("the ancestors of its stages differ",))


def affected(before: Plan, wanted: Plan) -> str:
    """Returns a line on the stages of `wanted` that `before` lacks or has with another hash, and on the others."""
    hashes = {ref: stage.hash for ref, stage in before.by_ref.items()}
    stages: dict[str, list[str]] = {"these stages would be trained again": [], "these stay": []}
    again, stay = stages.values()
    for ref, stage in wanted.by_ref.items():
        (stay if hashes.get(ref) == stage.hash else again).append(str(ref))
    return "; ".join(f"{said}: {', '.join(refs)}" for said, refs in stages.items() if refs)


def _outside_files(plan: Plan) -> dict[str, OutsideFile]:
    return {
        f"ensemble.members.{member}.predictions.{split}": file
        for member, files in plan.outside.items()
        for split, file in files.items()
    }


def _is_longer(before: Stage, after: Stage) -> bool:
    return before.trunk == after.trunk != "" and before.recipe.schedule.epochs < after.recipe.schedule.epochs


def _why_bound(stage: Stage, plan: Plan) -> str:
    """Returns why the first epochs of a longer stage would differ from those of a shorter one; "" if they would not."""
    schedule, colour_until = stage.recipe.schedule, stage.recipe.augmentation.colour_until
    if schedule.decay in (Decay.cosine, Decay.one_cycle) or schedule.warmup_share:
        return "schedule.decay or schedule.warmup_share follows the number of all updates (schedule=constant does not)"
    if schedule.latest and schedule.decay is not Decay.step:
        return "schedule.latest cuts the rate at shares of all epochs (schedule=constant or schedule.latest=[] do not)"
    if any(change.after_share for change in schedule.rate_changes.values()) or 0 < colour_until < 1:
        return "schedule.rate_changes or augmentation.colour_until begin or end at shares of all epochs"
    started = next((str(other.ref) for other in plan.stages if stage.ref in other.follows), "")
    return started and f"{started} starts from it or learns from it"


def _dataset_lines(recorded: Plan, wanted: Plan) -> Iterator[str]:
    now = {dataset.name: dataset for dataset in wanted.datasets}
    for before in recorded.datasets:
        if before.name in now:
            after = now[before.name]
            for key, change in _differences(before.options, after.options):
                yield f"datasets.{before.name}.{key}: {change}"
            if before.classes != after.classes:
                yield f"datasets.{before.name}: {_class_change(before, after)}"


def _class_change(before: PlannedDataset, after: PlannedDataset) -> str:
    if not before.classes or not after.classes:
        return "classes are known in one plan only (images were absent in the other)"
    gone = sorted(set(before.classes) - set(after.classes))
    come = sorted(set(after.classes) - set(before.classes))
    parts = [f"{len(names)} {verb} ({names[0]}…)" for names, verb in ((gone, "gone"), (come, "new")) if names]
    return f"{before.num_classes} classes → {after.num_classes}; {', '.join(parts) or 'another order'}"


def _stage_lines(changed: list[tuple[Stage, Stage]]) -> Iterator[str]:
    """Yields one line per changed key: a setting of the groups changes in every stage at once."""
    stages: dict[str, list[str]] = {}
    for before, after in changed:
        for key, change in _differences(_own(before), _own(after)):
            stages.setdefault(f"{key}: {change}", []).append(str(before.ref))
    for line, refs in stages.items():
        more = f" and {len(refs) - _SHOWN_STAGES} more" if len(refs) > _SHOWN_STAGES else ""
        yield f"{line} (in {', '.join(refs[:_SHOWN_STAGES])}{more})"


def _own(stage: Stage) -> dict[str, Any]:
    """Returns the settings in a stage's hash that a person writes."""
    model = stage.recipe.model
    code = {"code": f"{model.file} (sha256 {model.code[:12]})"} if model.file else {}
    return {
        **plain(stage.recipe),
        "model": {**plain(model), **code},
        "init_from": None if stage.init_from is None else str(stage.init_from),
        "init_file": None if stage.init_file is None else f"sha256 {stage.init_file.sha256[:12]}",
        "seed": stage.member_seed,
        "teachers": some(plain(stage.teachers)),
    }


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    old, new = _flat(before), _flat(after)
    for key in dict.fromkeys((*old, *new)):
        if old.get(key) != new.get(key):
            yield key, f"{shown(old.get(key))} → {shown(new.get(key))}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
