"""Surveys and prepares the datasets of a configuration, and identifies its files of weights and of code."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from orchestrator.cluster import shard_runner
from orchestrator.config import TARGET, Config, default_run_dir
from orchestrator.folding import with_folds
from orchestrator.plan import OutsideFile, Plan, StageRef, affected, make_plan, plan_from_json, used_datasets
from orchestrator.run import RunPaths, read_record
from workers.data.store import NOTHING, Excluded, PrepareProgress, Store, held_out_by, open_store, prepare
from workers.data.survey import Survey, survey
from workers.errors import ConfigError, DataError, StorageError
from workers.models import code_of, read_sources
from workers.protocol import InitFile
from workers.settings import ModelSettings, Normalisation, Recipe
from workers.storage import expanded, sha256_of

# Is called for every image, with the name of its dataset.
Watcher = Callable[[str, PrepareProgress], None]
# A folder of code with more files is likely to hold more than a net.
_MANY_FILES = 50


def survey_all(config: Config, *, allow_absent: bool = False) -> dict[str, Survey]:
    """Surveys every dataset that a stage reads; raises DataError if one lacks images that it needs."""
    surveys = {}
    for name in used_datasets(config):
        surveys[name] = survey_one(config, name, allow_absent=allow_absent)
        if not surveys[name].declared:
            with _named(config, name):
                _require_enough(config, name, surveys[name].classes, surveys[name].counts)
    return surveys


def survey_one(config: Config, name: str, *, allow_absent: bool = False) -> Survey:
    """Surveys the dataset `name` as `survey_all` does; it may lack images that a launch needs."""
    with _named(config, name):
        return survey(config.datasets[name], allow_absent=allow_absent)


def affected_by_labels(
    config: Config, surveys: Mapping[str, Survey], files: tuple[Any, Any], wanted: Plan
) -> list[str]:
    """Returns a line on the stages that corrected labels change; none without any.

    They are compared with the run in `run_dir`, if there is one, or else with the plan without corrections. `files` are
    the hashed files of weights and of members from outside.
    """
    if not any("relabel" in dataset.options for dataset in wanted.datasets):
        return []
    if config.run_dir and (paths := RunPaths(Path(config.run_dir))).run_json.exists():
        return [f"beside {config.run_dir}, {affected(plan_from_json(read_record(paths).plan), wanted)}"]
    datasets = {name: replace(settings, relabel=None) for name, settings in config.datasets.items()}
    plain = {name: replace(found, relabelling=None) for name, found in surveys.items()}
    before = make_plan(replace(config, datasets=datasets), plain, *files)
    run_dir = default_run_dir(config.name, before.hash, config.runs)
    return [f"beside {run_dir if run_dir.exists() else 'the plan without relabel'}, {affected(before, wanted)}"]


def prepare_all(config: Config, watch: Watcher) -> dict[str, Store]:
    """Packs every dataset that a stage reads, or finds it packed, and returns their stores by name.

    `watch` is called for every image. The target comes first: its held-out images are left out of the others' train.

    Raises:
        DataError: images cannot be read, or a split lacks images that it needs.
        StorageError: the disk has too little space, or the store is unwritable or damaged.
        ClusterLost: the cluster that packs was lost; the finished shards are kept.
    """
    target = _prepare(config, TARGET, watch, NOTHING)
    excluded = held_out_by(target)
    return {
        name: target if name == TARGET else _prepare(config, name, watch, excluded) for name in used_datasets(config)
    }


def _prepare(config: Config, name: str, watch: Watcher, excluded: Excluded) -> Store:
    with _named(config, name):
        runner = shard_runner(config.cluster)
        settings, watched = config.datasets[name], partial(watch, name)
        store = open_store(prepare(settings, config.store, watched, excluded, runner, config.verify))
        _require_enough(config, name, store.classes, store.counts)
    return store


def _require_enough(config: Config, name: str, classes: Sequence[str], counts: Mapping[str, int]) -> None:
    """Raises DataError if there is only one class, nothing to predict, or a split empty that is to be held out."""
    settings = config.datasets[name]
    if len(classes) == 1:
        raise DataError(f"{classes[0]} is its only class: add images of another, since at least two are needed")
    if name == TARGET and not (counts["val"] or counts["test"] or settings.val_fraction or config.folds):
        raise DataError(
            f"nothing is left to predict, since it has no test: add one, or set datasets.{name}.val_fraction=0.1"
        )
    if name == TARGET and not counts["val"] and settings.val_fraction:
        raise DataError(
            "no image is held out as val: a class needs two images to hold one out, three with dev; add images, or "
            "val/<class>/"
        )
    if counts["dev"] or (not settings.dev_fraction and (counts["val"] or not settings.val_fraction)):
        return
    if not counts["val"]:
        raise DataError("no image is held out as dev or val: a class needs two images to hold one out; add images")
    raise DataError(
        f"dev would be empty: beside val, {counts['train']:,} images of {len(classes):,} classes are left to train "
        f"on, too few to hold out one of a class as dev: add images, or set datasets.{name}.dev_fraction=0, which "
        "steers the training by val"
    )


@contextmanager
def _named(config: Config, name: str) -> Iterator[None]:
    """Adds the dataset's name to an error, and how to do without it; the readers of datasets do not know it."""
    try:
        yield
    except (DataError, StorageError) as error:
        text = str(error).replace("datasets.<name>.", f"datasets.{name}.")
        rootless = name != TARGET and config.datasets[name].root is None
        without = ", or do without it: ensemble=five" if rootless else ""
        raise type(error)(f"datasets.{name}: {text}{without}") from error


def with_code(config: Config, *, trusted: bool) -> Config:
    """Returns `config` with `model.code` of each net that users' code builds, and the sha256 of files of folds.

    No code is imported.

    Raises:
        ConfigError: a file of code is named that is not `trusted` or cannot be read, or one of folds is missing.
        DataError: a file of groups or folds is malformed.
    """

    def identified(recipe: Recipe) -> Recipe:
        require_trust(recipe.model, trusted=trusted)
        # A sweep's paths are as written.
        model = replace(
            recipe.model, file=recipe.model.file and str(expanded(recipe.model.file, ConfigError).absolute())
        )
        return replace(recipe, model=replace(model, code=code_of(model)))

    members = {
        name: replace(member, stages={stage: identified(recipe) for stage, recipe in member.stages.items()})
        for name, member in config.members.items()
    }
    files = {recipe.model.file for member in members.values() for recipe in member.stages.values() if recipe.model.file}
    counts = {file: len(read_sources(Path(file))) for file in sorted(files)}
    notes = [
        f"model.file={file}: {count} files of code in its folder are hashed and copied; give it a folder of its own"
        for file, count in counts.items()
        if count > _MANY_FILES
    ]
    return with_folds(replace(config, members=members, notes=(*config.notes, *notes)))


def require_trust(model: ModelSettings, *, trusted: bool) -> None:
    """Raises ConfigError if a file builds the net and is not `trusted`, nor all code by SEPTET_TRUST_CODE=1."""
    if model.file and not trusted and os.environ.get("SEPTET_TRUST_CODE") != "1":
        raise ConfigError(
            f"model.file={model.file}: is code, which has all your rights; if you trust it and all of its folder, "
            "add --trust-code (or set SEPTET_TRUST_CODE=1)"
        )


def hash_init_files(config: Config) -> Mapping[StageRef, InitFile]:
    """Finds and hashes each file that a stage starts from, published ones in the caches of their libraries.

    Raises:
        ConfigError: no such weights are published.
        DataError: a file cannot be read or downloaded.
    """
    found: dict[StageRef, InitFile] = {}
    find = cache(_init_file)
    for member in config.members.values():
        for name, stage in member.stages.items():
            try:
                file = find(stage.init_file, stage.model.name, stage.model.pretrained)
            except (ConfigError, DataError) as error:
                raise type(error)(f"ensemble.members.{member.name}.stages.{name}.{error}") from error
            if file is not None:
                # Another normalisation than that of the weights may be wanted.
                inherits = stage.augmentation.normalisation is Normalisation.auto
                found[StageRef(member.name, name)] = file if inherits else replace(file, scale=())
    return found


def hash_outside(config: Config) -> Mapping[str, Mapping[str, OutsideFile]]:
    """Hashes the files of members from outside, by member and split; raises DataError if one cannot be read."""
    found: dict[str, dict[str, OutsideFile]] = {}
    for member in config.members.values():
        for split, given in member.predictions.items():
            path = expanded(given).absolute()
            try:
                found.setdefault(member.name, {})[split] = OutsideFile(str(path), sha256_of(path))
            except OSError as error:
                key = f"ensemble.members.{member.name}.predictions.{split}={given}"
                raise DataError(f"{key}: cannot be read ({error.strerror}); give a file of probabilities") from error
    return found


def _init_file(given: str | None, net: str, pretrained: bool | str) -> InitFile | None:
    if pretrained is not False:
        # Imported here, since it loads torch.
        from workers.training import find_pretrained

        return find_pretrained(net, pretrained)
    if given is None:
        return None
    path = expanded(given).absolute()
    try:
        return InitFile(str(path), sha256_of(path))
    except OSError as error:
        raise DataError(f"init_file={path}: cannot be read ({error.strerror}); give a file of weights") from error


def check_init_files(plan: Plan) -> None:
    """Checks every file that a stage starts from against the stage's model.

    Raises:
        DataError: it is no file of weights, or lacks a layer that the stage does not reset.
    """
    for stage in plan.stages:
        if stage.init_file is not None:
            # Imported here, since it loads torch.
            from workers.training import check_init_file

            try:
                check_init_file(stage.init_file, stage.recipe.model, stage.num_classes, stage.recipe.reset)
            except DataError as error:
                raise DataError(f"ensemble.members.{stage.ref.member}.stages.{stage.ref.stage}.{error}") from error
