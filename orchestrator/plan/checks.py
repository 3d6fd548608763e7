"""Checks that a stage's crop fits its images, its layers its ancestor's weights, and its halves the GPUs. Pure."""

from collections.abc import Collection, Mapping, Sequence

from orchestrator.config import OWN_IMAGES, TARGET, choices, stored_for
from orchestrator.plan.model import Plan, PlannedDataset, Stage, StageRef, normalised_as
from workers.errors import ConfigError, DataError, some
from workers.models import Outline, outline
from workers.settings import HELD_OUT, OUT_OF_FOLD, Crops, Decay, Keep, KeptCheckpoint, Layout, Normalisation, Recipe
from workers.training import first_standstill, later_phases, warm_up_updates

# The share of a stage's updates from which its warm-up is worth a word; the experiments' own have up to a seventh.
_LONG_WARM_UP = 1 / 3


def check_crop(stage: Stage, dataset: PlannedDataset) -> None:
    """Raises ConfigError if a crop is larger than its images, or so small that the net sees no object in it."""
    crop, size = stage.recipe.model.input_size, int(dataset.options["size"])
    if crop > size:
        raise ConfigError(
            f"{_where(stage.ref)}.model.input_size={crop}: larger than its images, "
            f"datasets.{dataset.name}.size={size}; give a smaller model.input_size, or a larger "
            f"datasets.{dataset.name}.size"
        )
    if crop * 3 < size:
        raise ConfigError(
            f"{_where(stage.ref)}.model.input_size={crop}: less than a third of its images' side, "
            f"datasets.{dataset.name}.size={size}, so the net would see fragments; set "
            f"datasets.{dataset.name}.size={stored_for(crop)}, or choose a net for larger images, as in {OWN_IMAGES}"
        )


def check_mean_image(stage: Stage, origin: Stage, datasets: Mapping[str, PlannedDataset], crops: Crops) -> None:
    """Raises ConfigError if a mean image, perhaps of an `origin` far up the chain, does not fit a stage's images.

    `crops` are those of the target's predictions.
    """
    if origin.recipe.augmentation.normalisation is not Normalisation.mean_image:
        return
    dataset, where = datasets[stage.recipe.dataset], f"{_where(stage.ref)}.augmentation.normalisation"
    if stage.recipe.augmentation.changes_images:
        instead = "give augmentation.normalisation=dataset, or leave out resized_crop, policy and the like"
        raise ConfigError(f"{where}=mean_image: of {origin.ref}, fits windows alone; {instead}")
    whole = dataset.options.get("keep") == Keep.whole
    if whole or (dataset.name == TARGET and crops is Crops.five_scales):
        key, value = (f"datasets.{dataset.name}.keep", Keep.whole) if whole else ("predict.crops", crops)
        raise ConfigError(
            f"{where}=mean_image: with {key}={value}, images have other shapes than the mean image; give "
            f"augmentation.normalisation=dataset, or leave {key} out"
        )
    here, there = (datasets[one.recipe.dataset].options["size"] for one in (stage, origin))
    if here != there:
        raise ConfigError(
            f"{where}=auto: {origin.ref} has a mean image of {there} pixels, not of "
            f"datasets.{dataset.name}.size={here}; give both one size, or mean_image for a mean of its own"
        )


def check_class_weights(stage: Stage, dataset: PlannedDataset) -> None:
    """Raises ConfigError if the loss weighs a class that the dataset lacks, or not all of its classes."""
    given, where = stage.recipe.loss.class_weights, f"{_where(stage.ref)}.loss.class_weights"
    if not isinstance(given, Mapping) or not dataset.classes:
        return
    if unknown := sorted(set(given) - set(dataset.classes)):
        raise ConfigError(f"{where}: {dataset.name} has no class {unknown[0]}; {choices(unknown[0], dataset.classes)}")
    if missing := sorted(set(dataset.classes) - set(given)):
        raise ConfigError(f"{where}: no weight of {some(missing)}; give every class of {dataset.name} one")


def check_held_out(stage: Stage, dataset: PlannedDataset, keep: KeptCheckpoint) -> None:
    """Raises ConfigError if a setting needs held-out images and there are none; a refit looks at none."""
    if stage.refit is not None or dataset.holds_out:
        return
    schedule, where = stage.recipe.schedule, _where(stage.ref)
    last = "averaging.soup=last" if keep is KeptCheckpoint.soup else "predict.checkpoint=last"
    for setting, needed, instead in (
        (f"{where}.schedule.stop_when_stalled=true", schedule.stop_when_stalled, "schedule.stop_when_stalled=false"),
        (f"{where}.schedule.decay={schedule.decay}", schedule.looks, "schedule=fixed, cosine, one_cycle or step"),
        (f"predict.checkpoint={keep}", stage.recipe.picks_epochs(keep), last),
    ):
        if needed:
            raise ConfigError(
                f"{setting}: looks at dev or val, and {dataset.name} holds out neither; give {instead}, or "
                f"datasets.{dataset.name}.dev_fraction=0.1"
            )


def check_refit(ref: StageRef, recipes: Mapping[StageRef, Recipe], dataset: PlannedDataset) -> None:
    """Raises ConfigError if `ref` refits a stage that starts or trains otherwise, or is no honest first pass."""
    own, first = recipes[ref], StageRef(ref.member, str(recipes[ref].refit))
    theirs = recipes[first]
    starts = (own.init_from, own.init_file) == (theirs.init_from, theirs.init_file)
    for fits, why in (
        (theirs.refit is None, f"{first} is a refit itself; name a first pass"),
        (own.dataset == theirs.dataset == TARGET, "only a stage on target can be trained again on dev and val"),
        (starts, f"it starts from what {first} starts from; set it there"),
        (own.schedule == theirs.schedule, f"it has the schedule of {first}; set it there"),
        (
            dataset.holds_out,
            "its epochs are found on dev or val, and neither is held out; give dev_fraction=0.1, or ensemble=five",
        ),
        (dataset.counts["test"], "it trains on val too, so it can only predict test, and there is none; add test/"),
    ):
        if not fits:
            raise ConfigError(f"{_where(ref)}.refit={own.refit}: {why}")


def check_distil(
    ref: StageRef, recipes: Mapping[StageRef, Recipe], origin: StageRef | None, teachers: Collection[StageRef]
) -> None:
    """Raises ConfigError if `ref` learns from `teachers` and cannot, or starts from a stage that does."""
    own, where = recipes[ref], _where(ref)
    first = StageRef(ref.member, own.refit) if own.refit else None
    for key, before in (("init_from", origin), ("refit", first)):
        if before is not None and recipes[before].distil.weight:
            why = f"{before} learns from the ensemble, and such a stage is its member's last"
            raise ConfigError(f"{where}.{key}={getattr(own, key)}: {why}")
    if own.distil.weight and (own.refit or not teachers):
        why = "no member is trained in folds, so there is none to learn from; give ensemble=distilled"
        why = "a refit trains on dev and val, of which teachers say nothing out of fold" if own.refit else why
        raise ConfigError(f"{where}.distil.weight={own.distil.weight:g}: {why}")


def check_outside(plan: Plan) -> None:
    """Raises DataError if a member from outside lacks the submitted split, or names one that no member predicts."""
    splits = [split for split in HELD_OUT if plan.target.counts.get(split)]
    if any(stage.recipe.fold.k for stage in plan.stages):
        splits.append(OUT_OF_FOLD)
    submitted = next((split for split in ("test", "val") if split in splits), OUT_OF_FOLD)
    for member, files in plan.outside.items():
        key = f"ensemble.members.{member}.predictions"
        if surplus := [split for split in files if split not in splits]:
            held = f"members predict {', '.join(splits)}"
            raise DataError(f"{key}.{surplus[0]}: {TARGET} has no {surplus[0]} here ({held}); remove it")
        if submitted not in files:
            raise DataError(f"{key}: no file of {submitted}, which is submitted; give {key}.{submitted}=FILE")


def remarks(plan: Plan) -> list[str]:
    """Returns the lines that `plan` and `launch` show about a plan: corrected labels, long warm-ups, pixels that
    another dataset normalises, and stages that look at nothing."""
    corrected = [f"datasets.{dataset.name}: {dataset.relabelled}" for dataset in plan.datasets if dataset.relabelled]
    return [*corrected, *_warm_up_lines(plan), *_inherited_lines(plan), *_unseen_lines(plan)]


def _inherited_lines(plan: Plan) -> list[str]:
    alike: dict[tuple[str, str, str], list[Stage]] = {}
    for stage in plan.stages:
        origin = normalised_as(stage, plan.by_ref)
        kind, there = origin.recipe.augmentation.normalisation, origin.recipe.dataset
        constant = kind is Normalisation.imagenet or (origin.init_file and origin.init_file.scale)
        if there != stage.recipe.dataset and not constant:
            own = "dataset" if kind is Normalisation.auto else kind
            alike.setdefault((there, stage.recipe.dataset, own), []).append(stage)
    return [
        f"{_and_more([stage.ref for stage in stages])}: normalised as {normalised_as(stages[0], plan.by_ref).ref} on "
        f"{there}; augmentation.normalisation={own} for its own"
        for (there, _, own), stages in alike.items()
    ]


def _unseen_lines(plan: Plan) -> list[str]:
    datasets, alike = {one.name: one for one in plan.datasets}, dict[str, list[StageRef]]()
    for stage in plan.stages:
        name, schedule = stage.recipe.dataset, stage.recipe.schedule
        if datasets[name].holds_out:
            continue
        cuts = f"; the rate is cut at {', '.join(f'{share:.0%}' for share in schedule.latest)} of the epochs"
        every = f"all of {name} but its fold" if stage.recipe.fold.k else f"all of {name}"
        line = f"trains on {every} and looks at no other image{cuts if schedule.decay is Decay.fixed else ''}"
        alike.setdefault(line, []).append(stage.ref)
    return [f"{_and_more(refs)}: {line}" for line, refs in alike.items()]


def _and_more(refs: list[StageRef]) -> str:
    return f"{refs[0]}{f' and {len(refs) - 1} more' if len(refs) > 1 else ''}"


def _warm_up_lines(plan: Plan) -> list[str]:
    """Returns a line for the stages that spend much of their updates on warming up, those of equal length together."""
    alike: dict[tuple[int, int, str], list[StageRef]] = {}
    for stage in plan.stages:
        schedule, updates = stage.recipe.schedule, stage.num_updates
        warm_up = warm_up_updates(schedule, updates)
        if warm_up > updates * _LONG_WARM_UP:
            fewer = f"schedule.warmup_updates={max(1, updates // 10)}, or more epochs"
            change = fewer if warm_up == schedule.warmup_updates else "schedule.warmup_share=0.1"
            alike.setdefault((warm_up, updates, change), []).append(stage.ref)
    lines = []
    for (warm_up, updates, change), refs in alike.items():
        reached = f": the rate ends at {updates / warm_up:.0%} of optimizer.lr" if updates < warm_up else ""
        lines.append(f"{_and_more(refs)}: {warm_up} updates of warm-up for {updates} in all{reached}; give {change}")
    return lines


def check_layers(stage: Stage) -> None:
    """Raises ConfigError if a named layer is unknown, or if rates, `reset` and `freeze` contradict one another."""
    found = outline(stage.recipe.model, stage.num_classes)
    where = _where(stage.ref)
    scaled = tuple(stage.recipe.lr_scale)
    changes = stage.recipe.schedule.rate_changes
    changed = [(f"schedule.rate_changes.{name}.layers", tuple(change.layers)) for name, change in changes.items()]
    changed.append(("optimizer.layer_decay", tuple(stage.recipe.optimizer.layer_decay)))
    for key, names in (("reset", stage.recipe.reset), ("freeze", stage.recipe.freeze), ("lr_scale", scaled), *changed):
        for name in names:
            if not found.select(name):
                raise ConfigError(f"{where}.{key}: no layer {name}; {choices(name, found.names())}")
    frozen, reset = found.select_all(stage.recipe.freeze), found.select_all(stage.recipe.reset)
    if frozen == set(found.layers):
        raise ConfigError(f"{where}.freeze: every layer is frozen; leave at least one to train")
    if stage.recipe.reset and stage.init_from is None and stage.init_file is None:
        raise ConfigError(f"{where}.reset: has no effect without init_from or init_file; remove it")
    both = sorted(frozen & reset)
    if both:
        raise ConfigError(
            f"{where}.freeze: {', '.join(both)} would keep random weights; remove it from freeze or reset"
        )
    _check_rates(stage, found, where)


def _check_rates(stage: Stage, found: Outline, where: str) -> None:
    """Raises ConfigError if a rate change concerns a frozen layer, or if at some update no layer is left to train."""
    schedule, frozen = stage.recipe.schedule, found.select_all(stage.recipe.freeze)
    for name, change in schedule.rate_changes.items():
        factors = found.factors(change.layers)
        held = sorted(layer for layer in frozen if factors.get(layer, 0.0) > 0)
        if held:
            raise ConfigError(
                f"{where}.schedule.rate_changes.{name}.layers: {', '.join(held)} cannot train, since freeze holds "
                f"it from start to end; use {where}.lr_scale.{held[0]}=0 instead of freeze"
            )
    lr_scale = found.factors(stage.recipe.lr_scale)
    later = later_phases(found, lr_scale, schedule, stage.num_updates // schedule.epochs)
    update = first_standstill(lr_scale, later, set(found.layers) - frozen, stage.num_updates)
    if update is not None:
        raise ConfigError(f"{where}: no layer is left to train from update {update}; change lr_scale or rate_changes")


def check_gpus(stage: Stage, gpus_per_member: float) -> None:
    """Raises ConfigError if two halves would share a GPU; without GPUs both are on the CPU."""
    if stage.recipe.model.layout is Layout.halves and 0 < gpus_per_member < 2:
        raise ConfigError(
            f"cluster.gpus_per_member={gpus_per_member:g}: the two halves of {stage.ref} (model.layout=halves) need "
            "a GPU each; give cluster.gpus_per_member=2, or model.layout=grouped"
        )


def check_widths(plan: Plan, workers: Sequence[int]) -> None:
    """Raises ConfigError if several workers would have no shards to divide."""
    least, most = workers
    key = f"cluster.workers_per_member=[{least},{most}]"
    shards = {stage.ref: stage.recipe.optimizer.shards for stage in plan.stages}
    if most > 1 and max(shards.values(), default=1) == 1:
        raise ConfigError(
            f"{key}: no stage has shards to divide; give optimizer.shards=8 (changes bits and hash), or [1,1]"
        )
    if few := [ref for ref, own in shards.items() if own < least]:
        own = shards[few[0]]
        raise ConfigError(f"{key}: {few[0]} has optimizer.shards={own}; give {key.partition('=')[0]}=[{own},{most}]")


def check_bf16(stage: Stage) -> None:
    """Raises ConfigError if a CPU would compute a wrong gradient of the stage's net in bfloat16 (torch 2.14)."""
    if layer := outline(stage.recipe.model, stage.num_classes).strided_on_a_pixel:
        key, side = f"{_where(stage.ref)}.model.input_size", stage.recipe.model.input_size
        raise ConfigError(
            f"{key}={side}: {layer} would see maps of one pixel, and torch computes wrong gradients of strided "
            f"convolutions on those in bfloat16; give {key}={2 * side}, or precision=fp32"
        )


def check_fit(stage: Stage, ancestor: Stage, datasets: Mapping[str, PlannedDataset]) -> None:
    """Raises ConfigError if a copied layer has another shape than the ancestor's, or the last one other classes."""
    mine = outline(stage.recipe.model, stage.num_classes)
    theirs = outline(ancestor.recipe.model, ancestor.num_classes).layers
    reset = mine.select_all(stage.recipe.reset)
    copied = [layer for layer in mine.layers if layer not in reset]
    where = _where(stage.ref)
    if ancestor.refit is not None:
        # What starts from it would be scored on what it was trained on.
        raise ConfigError(f"{where}.init_from: {ancestor.ref} trained on dev and val; start from {ancestor.refit}")
    same_classes = datasets[stage.recipe.dataset].classes == datasets[ancestor.recipe.dataset].classes
    if mine.head in copied and (stage.num_classes != ancestor.num_classes or not same_classes):
        there = _some_of(datasets[ancestor.recipe.dataset], datasets[stage.recipe.dataset])
        here = _some_of(datasets[stage.recipe.dataset], datasets[ancestor.recipe.dataset])
        raise ConfigError(
            f"{where}: {ancestor.ref} has other classes ({ancestor.num_classes}, here {stage.num_classes}"
            f"{there and f'; only there: {there}'}{here and f'; only here: {here}'}); "
            f"add {mine.head} to {where}.reset"
        )
    unlike = [layer for layer in copied if mine.layers[layer] != theirs.get(layer)]
    if unlike:
        raise ConfigError(
            f"{where}: {', '.join(unlike)} have another shape in {ancestor.ref}; add them to {where}.reset, "
            "or give both stages the same model"
        )


def _some_of(dataset: PlannedDataset, other: PlannedDataset) -> str:
    """Returns a few classes that `other` lacks; empty if the classes of either are not known by name."""
    if not dataset.classes or not other.classes:
        return ""
    alone = [name for name in dataset.classes if name not in set(other.classes)]
    return some(alone)


def _where(ref: StageRef) -> str:
    return f"ensemble.members.{ref.member}.stages.{ref.stage}"
