"""Builds a plan from a configuration: stages with dependencies, seeds and hashes. Pure.

A stage's seed depends on its member's seed and on the two names, never on a position. Its hash covers everything that
affects its weights, its ancestor's hash included. So adding a member does not change the bits of the others, and moving
data or run directory changes no hash.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from math import ceil
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from orchestrator.config import TARGET, Config, Precision, choices
from orchestrator.plan.admission import check_admission
from orchestrator.plan.checks import (
    check_bf16,
    check_class_weights,
    check_crop,
    check_distil,
    check_fit,
    check_gpus,
    check_held_out,
    check_layers,
    check_mean_image,
    check_outside,
    check_refit,
    check_widths,
)
from orchestrator.plan.halving import make_rungs
from orchestrator.plan.model import OutsideFile, Plan, PlannedDataset, Stage, StageRef, changed, normalised_as
from orchestrator.text import counted
from workers.errors import ConfigError
from workers.protocol import InitFile
from workers.settings import DatasetSettings, Decay, Normalisation, Recipe, ScheduleSettings, dataset_options

if TYPE_CHECKING:
    from workers.data.survey import Survey


_DEFAULTS, _DEFAULT_EPOCHS = DatasetSettings(), ScheduleSettings().epochs


def used_datasets(config: Config) -> tuple[str, ...]:
    """Returns the names of the datasets that stages read, in the order written; `target` is always among them.

    Raises:
        ConfigError: a stage names an unknown dataset.
    """
    used = {TARGET}
    for member in config.members.values():
        for name, stage in member.stages.items():
            if stage.dataset not in config.datasets:
                where = f"ensemble.members.{member.name}.stages.{name}.dataset={stage.dataset}"
                raise ConfigError(f"{where}: no such dataset; {choices(stage.dataset, config.datasets)}")
            used.add(stage.dataset)
    return tuple(name for name in config.datasets if name in used)


def make_plan(
    config: Config,
    surveys: Mapping[str, "Survey"],
    init_files: Mapping[StageRef, InitFile] = MappingProxyType({}),
    outside: Mapping[str, Mapping[str, OutsideFile]] = MappingProxyType({}),
) -> Plan:
    """Returns the plan of `config`.

    Args:
        config: the checked configuration.
        surveys: the survey of each of `used_datasets(config)`.
        init_files: the hashed files that stages start from.
        outside: the hashed files of each member from outside, by split.

    Raises:
        ConfigError: a dataset, stage or layer is unknown, a crop is larger than its images, stages form a cycle, a
            member has no last stage on the target, an ancestor's weights do not fit, halves would share a GPU, or a
            sweep's points or epochs do not suffice for its rungs, or a stage looks at images that are not held out, or
            admission has nothing to decide, or nothing to decide by.
        DataError: a member from outside lacks the submitted split, or has one that the target lacks.
    """
    datasets = {}
    for name in used_datasets(config):
        datasets[name] = _planned(name, config.datasets[name], surveys[name])
    configs = {
        StageRef(member.name, name): stage
        for member in config.members.values()
        for name, stage in member.stages.items()
    }
    origins = {ref: _parent(ref, stage, configs) for ref, stage in configs.items()}
    firsts = {ref: StageRef(ref.member, stage.refit) for ref, stage in configs.items() if stage.refit}
    for ref in firsts:
        check_refit(ref, configs, datasets[configs[ref].dataset])
    parents = {**origins, **firsts}
    # Stages that learn from others' last ones come after those; no stage starts from them.
    order = sorted(_in_order(parents), key=lambda ref: configs[ref].distil.weight > 0)
    last_stages = _last_stages(config, parents)
    teachers = tuple(ref for ref in last_stages.values() if configs[ref].fold.k)
    stages: dict[StageRef, Stage] = {}
    for ref in order:
        check_distil(ref, configs, origins[ref], teachers)
        member_seed = config.members[ref.member].seed
        seed = config.seed if member_seed is None else member_seed
        origin, first = origins[ref], stages[firsts[ref]] if ref in firsts else None
        ancestor = None if origin is None else stages[origin]
        recipe = _blind(configs[ref], datasets[configs[ref].dataset]) if config.entire else configs[ref]
        taught = teachers if recipe.distil.weight else ()
        stages[ref] = _stage(ref, recipe, datasets, stages, origin, seed, init_files.get(ref), first, taught)
        check_crop(stages[ref], datasets[configs[ref].dataset])
        check_mean_image(stages[ref], normalised_as(stages[ref], stages), datasets, config.predict.crops)
        check_class_weights(stages[ref], datasets[configs[ref].dataset])
        check_held_out(stages[ref], datasets[configs[ref].dataset], config.predict.checkpoint)
        check_layers(stages[ref])
        check_gpus(stages[ref], config.cluster.gpus_per_member)
        if config.precision is Precision.bf16 and not config.cluster.gpus_per_member:
            check_bf16(stages[ref])
        if ancestor is not None:
            check_fit(stages[ref], ancestor, datasets)
    hashed: dict[str, Any] = {str(ref): stage.hash for ref, stage in stages.items()}
    if outside:
        # No stage has such a name.
        hashed["outside"] = {member: sorted(files) for member, files in outside.items()}
    plan = Plan(
        experiment=config.name,
        hash=_digest(hashed),
        members=tuple(config.members),
        stages=tuple(stages.values()),
        datasets=tuple(datasets.values()),
        last_stages=last_stages,
        outside=outside,
    )
    check_outside(plan)
    check_widths(plan, config.cluster.workers_per_member)
    plan = replace(plan, rungs=make_rungs(plan, config.sweep_rungs, config.sweep_eta))
    check_admission(config, plan)
    return plan


def _planned(name: str, settings: DatasetSettings, found: "Survey") -> PlannedDataset:
    options, line, left_out = dataset_options(settings), "", ""
    if (corrections := found.relabelling) is not None:
        gone, same = len(corrections.left_out), corrections.num_same
        line = (
            f"relabel: {counted(len(corrections.changes) - gone, 'label')} changed, {counted(gone, 'image')} left out"
        )
        line += f", {counted(same, 'row')} as in the dataset"
        left_out = _digest(corrections.left_out) if gone else ""
        # A file that changes nothing changes no hash.
        options |= {"relabel": corrections.digest} if corrections.changes else {}
    elif settings.relabel is not None:
        line = "relabel: not read, since the images are absent"
    known = (tuple(found.classes), found.num_classes, dict(found.counts), found.declared)
    return PlannedDataset(name, options, *known, line, left_out)


def stage_seed(member_seed: int, ref: StageRef) -> int:
    """Returns 63 bits that depend on the member's seed and the names of member and stage (no name holds a slash)."""
    digest = hashlib.sha256(f"{member_seed}/{ref}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _stage(
    ref: StageRef,
    recipe: Recipe,
    datasets: Mapping[str, PlannedDataset],
    stages: Mapping[StageRef, Stage],
    parent: StageRef | None,
    member_seed: int,
    init_file: InitFile | None,
    first: Stage | None,
    teachers: tuple[StageRef, ...],
) -> Stage:
    dataset = datasets[recipe.dataset]
    num_images = sum(dataset.counts[split] for split in recipe.trained_on)
    if recipe.fold.k and dataset.name == TARGET:
        num_images -= num_images // recipe.fold.k
    stage = Stage(
        ref=ref,
        recipe=recipe,
        init_from=parent,
        member_seed=member_seed,
        seed=stage_seed(member_seed, ref),
        hash="",
        num_images=num_images,
        num_updates=recipe.schedule.epochs * ceil(num_images / recipe.optimizer.batch_size),
        num_classes=dataset.num_classes,
        init_file=init_file,
        refit=None if first is None else first.ref,
        teachers=teachers,
    )
    origin = normalised_as(stage, stages)
    # Inherited or not, and by name or not, the same normalisation is the same hash; `dataset` has none, as before.
    kind = origin.recipe.augmentation.normalisation
    kind = Normalisation.auto if kind is Normalisation.dataset else kind
    augmentation = replace(recipe.augmentation, normalisation=kind)
    model = replace(recipe.model, pretrained=False, file=recipe.model.file and recipe.model.file.rpartition("/")[2])
    # Names and paths do not affect weights: the hash covers the dataset's content and the hashes of ancestor and file.
    own = replace(
        recipe, dataset="", init_from=None, init_file=None, augmentation=augmentation, model=model, refit=None
    )
    hashed = {
        "recipe": changed(own),
        "seed": stage.seed,
        "dataset": _content(dataset),
        "ancestor": None if parent is None else stages[parent].hash,
        "init_file": None if init_file is None else init_file.sha256,
    }
    if first is not None:
        hashed["refit"] = first.hash
    if recipe.fold.k and dataset.name != TARGET and (left_out := datasets[TARGET].left_out):
        # They are in no fold, so copies of them here are no longer left out.
        hashed["left_out"] = left_out
    if teachers:
        # Their predictions follow from it, and from the crops, which a run fixes.
        hashed["teachers"] = sorted(stages[one].hash for one in teachers)
    if origin.init_file and origin.init_file.scale:
        hashed["normalised_by"] = origin.init_file.scale
    elif origin.recipe.dataset != recipe.dataset and kind is not Normalisation.imagenet:
        hashed["normalised_by"] = _content(datasets[origin.recipe.dataset])
    endless = replace(own, schedule=replace(own.schedule, epochs=_DEFAULT_EPOCHS))
    return replace(stage, hash=_digest(hashed), trunk=_digest({**hashed, "recipe": changed(endless)}))


def _content(dataset: PlannedDataset) -> dict[str, Any]:
    # As with `changed`: a new option at its default changes no hash.
    options = {name: value for name, value in dataset.options.items() if value != getattr(_DEFAULTS, name)}
    return {"options": options, "classes": dataset.classes}


def _blind(recipe: Recipe, dataset: PlannedDataset) -> Recipe:
    """Returns the recipe with the cuts of a plateau at its `latest` shares, if it would have nothing to look at."""
    schedule = recipe.schedule
    if dataset.holds_out or schedule.decay is not Decay.plateau or not schedule.latest:
        return recipe
    return replace(recipe, schedule=replace(schedule, decay=Decay.fixed))


def _digest(value: Any) -> str:
    """Returns the sha256 of the value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _parent(ref: StageRef, stage: Recipe, known: Mapping[StageRef, Recipe]) -> StageRef | None:
    """Resolves `init_from`: a stage of the same member first, else `<member>.<stage>` (names may hold dots)."""
    if stage.init_from is None:
        return None
    own = StageRef(ref.member, stage.init_from)
    if own in known:
        return own
    named = {f"{other.member}.{other.stage}": other for other in known}
    if stage.init_from in named:
        return named[stage.init_from]
    siblings = [other.stage for other in known if other.member == ref.member and other != ref]
    where = f"ensemble.members.{ref.member}.stages.{ref.stage}.init_from={stage.init_from}"
    raise ConfigError(f"{where}: no such stage; {choices(stage.init_from, (*siblings, *named))}")


def _in_order(parents: Mapping[StageRef, StageRef | None]) -> list[StageRef]:
    """Returns every stage after its ancestor, otherwise in the order written."""
    ordered: dict[StageRef, None] = {}
    for ref in parents:
        chain: list[StageRef] = []
        current: StageRef | None = ref
        while current is not None and current not in ordered:
            if current in chain:
                cycle = " → ".join(str(one) for one in (*chain[chain.index(current) :], current))
                raise ConfigError(f"init_from: the stages {cycle} form a cycle; remove init_from from one of them")
            chain.append(current)
            current = parents[current]
        ordered.update(dict.fromkeys(reversed(chain)))
    return list(ordered)


def _last_stages(config: Config, parents: Mapping[StageRef, StageRef | None]) -> dict[str, StageRef]:
    """Returns each member's last stage; it follows from the dependencies, never from the order of keys."""
    anywhere = set(parents.values())
    last = {}
    for member in config.members.values():
        if member.predictions:
            continue
        refs = [StageRef(member.name, name) for name in member.stages]
        within = {parents[ref] for ref in refs}
        ends = [ref for ref in refs if ref not in within]
        # A stage that only other members start from is a side branch if the member has another end.
        ends = [ref for ref in ends if ref not in anywhere] if len(ends) > 1 else ends
        names = ", ".join(ref.stage for ref in ends) or "none"
        key = f"ensemble.members.{member.name}.stages"
        if len(ends) != 1:
            raise ConfigError(f"{key}: cannot tell which stage is last ({names}); chain them with init_from")
        dataset = member.stages[ends[0].stage].dataset
        if dataset != TARGET:
            raise ConfigError(f"{key}.{names}.dataset={dataset}: a member's last stage must be on target")
        last[member.name] = ends[0]
    return last
