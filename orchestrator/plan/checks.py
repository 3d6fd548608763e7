"""Whether a stage's crop fits its images, its layers its ancestor's weights, and its halves the GPUs. Pure."""

from collections.abc import Mapping

from orchestrator.config import choices
from orchestrator.plan.model import PlannedDataset, Stage
from workers.errors import ConfigError
from workers.models import Outline, outline
from workers.settings import Layout
from workers.training import first_standstill, later_phases


def check_crop(stage: Stage, dataset: PlannedDataset) -> None:
    """A crop is no larger than the images that it is cut from."""
    crop, size = stage.settings.model.input_size, dataset.options["size"]
    if crop > size:
        raise ConfigError(
            f"{_where(stage)}.model.input_size={crop}: larger than its "
            f"images, datasets.{dataset.name}.size={size}; give a smaller model.input_size, or a larger "
            f"datasets.{dataset.name}.size"
        )


def check_layers(stage: Stage) -> None:
    """Settings that name layers name some that are there; rates, `reset` and `freeze` make sense together."""
    found = outline(stage.settings.model, stage.num_classes)
    where = _where(stage)
    scaled = tuple(layer for layer, _ in stage.lr_scale)
    changes = stage.settings.schedule.rate_changes
    changed = [(f"schedule.rate_changes.{name}.layers", tuple(change.layers)) for name, change in changes.items()]
    changed.append(("optimizer.layer_decay", tuple(stage.settings.optimizer.layer_decay)))
    for key, names in (("reset", stage.reset), ("freeze", stage.freeze), ("lr_scale", scaled), *changed):
        for name in names:
            if not found.select(name):
                raise ConfigError(f"{where}.{key}: no layer {name}; {choices(name, found.names())}")
    frozen, reset = found.select_all(stage.freeze), found.select_all(stage.reset)
    if frozen == set(found.layers):
        raise ConfigError(f"{where}.freeze: every layer is frozen; leave at least one to train")
    if stage.reset and stage.init_from is None and stage.init_file is None:
        raise ConfigError(f"{where}.reset: nothing to draw anew without init_from or init_file; leave it out")
    both = sorted(frozen & reset)
    if both:
        raise ConfigError(f"{where}.freeze: {', '.join(both)} would stay as drawn; take it out of freeze or of reset")
    _check_rates(stage, found, where)


def _check_rates(stage: Stage, found: Outline, where: str) -> None:
    """No change of rates would move a layer that `freeze` has taken out, and at any time a layer is left to train."""
    schedule, frozen = stage.settings.schedule, found.select_all(stage.freeze)
    for name, change in schedule.rate_changes.items():
        factors = found.factors(change.layers)
        held = sorted(layer for layer in frozen if factors.get(layer, 0.0) > 0)
        if held:
            raise ConfigError(
                f"{where}.schedule.rate_changes.{name}.layers: {', '.join(held)} cannot move, since freeze holds "
                f"it from start to end; write {where}.lr_scale.{held[0]}=0 in place of that"
            )
    lr_scale = found.factors(dict(stage.lr_scale))
    later = later_phases(found, lr_scale, schedule, stage.num_updates // schedule.epochs)
    update = first_standstill(lr_scale, later, set(found.layers) - frozen, stage.num_updates)
    if update is not None:
        raise ConfigError(f"{where}: from update {update} on no layer is left to train; see lr_scale and rate_changes")


def check_gpus(stage: Stage, gpus_per_member: float) -> None:
    """Two halves on GPUs want one each; without GPUs both lie on the CPU."""
    if stage.settings.model.layout is Layout.halves and 0 < gpus_per_member < 2:
        raise ConfigError(
            f"cluster.gpus_per_member={gpus_per_member:g}: the two halves of {stage.ref} (model.layout=halves) want "
            "a GPU each; give cluster.gpus_per_member=2, or model.layout=grouped"
        )


def check_fit(stage: Stage, ancestor: Stage, datasets: Mapping[str, PlannedDataset]) -> None:
    """Layers that are copied must have the ancestor's shape, and the last one its classes."""
    mine = outline(stage.settings.model, stage.num_classes)
    theirs = outline(ancestor.settings.model, ancestor.num_classes).layers
    reset = mine.select_all(stage.reset)
    copied = [layer for layer in mine.layers if layer not in reset]
    where = _where(stage)
    same_classes = datasets[stage.dataset].classes == datasets[ancestor.dataset].classes
    if mine.head in copied and (stage.num_classes != ancestor.num_classes or not same_classes):
        theirs_alone = _some_of(datasets[ancestor.dataset], datasets[stage.dataset])
        mine_alone = _some_of(datasets[stage.dataset], datasets[ancestor.dataset])
        raise ConfigError(
            f"{where}: {ancestor.ref} has other classes ({ancestor.num_classes}, here {stage.num_classes}"
            f"{theirs_alone and f'; {theirs_alone} there alone'}{mine_alone and f'; {mine_alone} here alone'}); "
            f"add {mine.head} to {where}.reset"
        )
    unlike = [layer for layer in copied if mine.layers[layer] != theirs.get(layer)]
    if unlike:
        raise ConfigError(
            f"{where}: {', '.join(unlike)} have another shape in {ancestor.ref}; add them to {where}.reset, "
            "or give both stages the same model"
        )


def _some_of(dataset: PlannedDataset, other: PlannedDataset) -> str:
    """A few classes of the one that the other has not; empty where either's are not known by name."""
    if not dataset.classes or not other.classes:
        return ""
    alone = [name for name in dataset.classes if name not in set(other.classes)]
    return ", ".join(alone[:3]) + ("…" if len(alone) > 3 else "")


def _where(stage: Stage) -> str:
    return f"ensemble.members.{stage.ref.member}.stages.{stage.ref.stage}"
