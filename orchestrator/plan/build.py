"""From configuration to stages with dependencies, seeds and hashes. Pure: plain values in, plain values out.

A stage's seed comes from its member's seed and the two names, never from a position; its hash from everything that
shapes its weights, its ancestor's hash included. So a member that is added leaves the others' bits alone, and a
plan's hash does not depend on where data or run directory lie.
"""

import hashlib
import json
from collections.abc import Mapping
from math import ceil
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from orchestrator.config import TARGET, Config, StageConfig, choices
from orchestrator.plan.checks import check_crop, check_fit, check_gpus, check_layers
from orchestrator.plan.model import Plan, PlannedDataset, Stage, StageRef, hashed, plain
from workers.errors import ConfigError
from workers.protocol import InitFile
from workers.settings import DatasetSettings, dataset_options

if TYPE_CHECKING:
    from workers.data.sources import Survey


_SEED_BITS = 63


def used_datasets(config: Config) -> tuple[str, ...]:
    """Names of the datasets that stages read, in the order written; `target` always.

    Raises:
        ConfigError: a stage names a dataset that is not there.
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
    config: Config, surveys: Mapping[str, "Survey"], init_files: Mapping[str, InitFile] = MappingProxyType({})
) -> Plan:
    """The plan of `config`; `surveys` say what each of `used_datasets(config)` holds.

    `init_files` are the files that stages start from, hashed, by the path as configured.

    Raises:
        ConfigError: an unknown dataset, stage or layer, a crop larger than its images, a cycle, a member without a last
            stage on the target, an ancestor whose weights do not fit, halves that would share a GPU.
    """
    datasets = {name: _planned_dataset(name, config.datasets[name], surveys[name]) for name in used_datasets(config)}
    configs = {
        StageRef(member.name, name): stage
        for member in config.members.values()
        for name, stage in member.stages.items()
    }
    parents = {ref: _parent(ref, stage, configs) for ref, stage in configs.items()}
    stages: dict[StageRef, Stage] = {}
    for ref in _in_order(parents):
        member_seed = config.members[ref.member].seed
        seed = config.seed if member_seed is None else member_seed
        parent = parents[ref]
        ancestor = None if parent is None else stages[parent]
        given = configs[ref].init_file
        init_file = None if given is None else init_files[given]
        stages[ref] = _stage(ref, configs[ref], datasets, ancestor, seed, init_file)
        check_crop(stages[ref], datasets[configs[ref].dataset])
        check_layers(stages[ref])
        check_gpus(stages[ref], config.cluster.gpus_per_member)
        if ancestor is not None:
            check_fit(stages[ref], ancestor, datasets)
    return Plan(
        experiment=config.experiment,
        hash=_digest({str(ref): stage.hash for ref, stage in stages.items()}),
        members=tuple(config.members),
        stages=tuple(stages.values()),
        datasets=tuple(datasets.values()),
        last_stages=_last_stages(config, parents),
    )


def stage_seed(member_seed: int, ref: StageRef) -> int:
    """63 bits from the member's seed and the names of member and stage (no name holds a slash)."""
    digest = hashlib.sha256(f"{member_seed}/{ref}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - _SEED_BITS)


def _planned_dataset(name: str, settings: DatasetSettings, survey: "Survey") -> PlannedDataset:
    return PlannedDataset(
        name,
        dataset_options(settings),
        tuple(survey.classes),
        survey.num_classes,
        dict(survey.counts),
        survey.declared,
    )


def _stage(
    ref: StageRef,
    config: StageConfig,
    datasets: Mapping[str, PlannedDataset],
    ancestor: Stage | None,
    member_seed: int,
    init_file: InitFile | None,
) -> Stage:
    dataset = datasets[config.dataset]
    seed = stage_seed(member_seed, ref)
    num_images = dataset.counts["train"]
    digest = _digest(
        {
            "settings": hashed(config.settings),
            "seed": seed,
            "reset": config.reset,
            "freeze": config.freeze,
            "lr_scale": config.lr_scale,
            "dataset": {"options": plain(dataset.options), "classes": dataset.classes},
            "ancestor": None if ancestor is None else ancestor.hash,
            # Where the file lies shapes nothing.
            "init_file": None if init_file is None else init_file.sha256,
        }
    )
    return Stage(
        ref=ref,
        dataset=config.dataset,
        init_from=None if ancestor is None else ancestor.ref,
        settings=config.settings,
        reset=config.reset,
        freeze=config.freeze,
        lr_scale=config.lr_scale,
        member_seed=member_seed,
        seed=seed,
        hash=digest,
        num_images=num_images,
        num_updates=config.settings.schedule.epochs * ceil(num_images / config.settings.optimizer.batch_size),
        num_classes=dataset.num_classes,
        init_file=init_file,
    )


def _digest(value: Any) -> str:
    """sha256 of the value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _parent(ref: StageRef, stage: StageConfig, known: Mapping[StageRef, StageConfig]) -> StageRef | None:
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
    """Every stage after its ancestor, otherwise as written."""
    ordered: dict[StageRef, None] = {}
    for ref in parents:
        chain: list[StageRef] = []
        current: StageRef | None = ref
        while current is not None and current not in ordered:
            if current in chain:
                cycle = " → ".join(str(one) for one in (*chain[chain.index(current) :], current))
                raise ConfigError(f"init_from: the stages {cycle} wait for each other; let one start afresh")
            chain.append(current)
            current = parents[current]
        ordered.update(dict.fromkeys(reversed(chain)))
    return list(ordered)


def _last_stages(config: Config, parents: Mapping[StageRef, StageRef | None]) -> dict[str, StageRef]:
    """Each member's last stage, by dependencies alone: no order of keys decides which weights predict."""
    anywhere = set(parents.values())
    last = {}
    for member in config.members.values():
        refs = [StageRef(member.name, name) for name in member.stages]
        within = {parents[ref] for ref in refs}
        ends = [ref for ref in refs if ref not in within]
        # A stage that only other members start from is a side branch where the member has another end.
        ends = [ref for ref in ends if ref not in anywhere] if len(ends) > 1 else ends
        names = ", ".join(ref.stage for ref in ends) or "none"
        key = f"ensemble.members.{member.name}.stages"
        if len(ends) != 1:
            raise ConfigError(f"{key}: which stage is the last one? ({names}); chain them with init_from")
        dataset = member.stages[ends[0].stage].dataset
        if dataset != TARGET:
            raise ConfigError(f"{key}.{names}.dataset={dataset}: a member's last stage must be on target")
        last[member.name] = ends[0]
    return last
