"""Refuses typed settings that the chosen source or net would ignore. Pure.

Only what a person typed is refused: files of conf/ set values for several sources and nets at once.
"""

from collections.abc import Mapping

from orchestrator.config.schema import MemberConfig
from orchestrator.config.structure import field_types, nearest, shown
from orchestrator.config.words import OWN_IMAGES
from workers.errors import ConfigError
from workers.models import MODEL_NAMES
from workers.settings import FILE_SOURCES, DatasetSettings, Decay, InitSettings, ModelSettings, Policy, Recipe, Source

_NOT_DIGITS = frozenset(Source) - {Source.digits}
# `DatasetSettings` itself refuses the columns and files that only some sources read.
_SOURCES = {
    **dict.fromkeys(("root", "classes", "on_bad"), _NOT_DIGITS),
    **dict.fromkeys(("name", "download"), frozenset({Source.torchvision})),
    **dict.fromkeys(("declared_classes", "declared_train", "declared_val", "declared_test"), FILE_SOURCES),
    "orientations": frozenset({Source.digits}),
}
# AlexNet reads every other setting of a model; these belong to every net, or to the choice of one.
_ANY_NET = ("name", "input_size", "file", "function", "args", "pretrained")
_ALEXNET = "alexnet"
_ALSO_READ_BY = {"width": ("highway",)}
_CUTTING = (Decay.plateau, Decay.fixed)
# Settings that one choice of the same group reads: the setting that chooses, and its values that do. An average's are
# read by choices of predict.checkpoint.
_CHOSEN = {
    **dict.fromkeys((("optimizer", field) for field in ("momentum", "nesterov", "velocity")), ("name", ("sgd",))),
    ("schedule", "cuts"): ("decay", _CUTTING),
    ("schedule", "latest"): ("decay", _CUTTING),
    ("schedule", "patience"): ("decay", (Decay.plateau,)),
    ("schedule", "factor"): ("decay", (*_CUTTING, Decay.step)),
    ("schedule", "step_epochs"): ("decay", (Decay.step,)),
    ("schedule", "final_lr_share"): ("decay", (Decay.cosine, Decay.one_cycle)),
    **dict.fromkeys((("augmentation", field) for field in ("num_ops", "magnitude")), ("policy", (Policy.randaugment,))),
    **dict.fromkeys((("augmentation", field) for field in ("crop_scale", "crop_ratio")), ("resized_crop", (True,))),
    ("averaging", "ema_decay"): ("", ("ema",)),
    ("averaging", "swa_from"): ("", ("swa",)),
    **dict.fromkeys((("averaging", "soup"), ("averaging", "soup_checkpoints")), ("", ("soup",))),
}
# A switch of the same group that has the setting read as well, whatever is chosen.
_ALSO_READ_WITH = {("schedule", "patience"): "stop_when_stalled"}


def refuse_unread(
    typed: Mapping[str, str],
    datasets: Mapping[str, DatasetSettings],
    members: Mapping[str, MemberConfig],
    keep: str,
) -> None:
    """Raises ConfigError for a setting of `typed`, values as text by dotted key, that nothing reads.

    `keep` is `predict.checkpoint`.
    """
    if typed.get("tracking.register", "null") != "null" and typed.get("tracking.models") == "false":
        raise ConfigError("tracking.models=false: tracking.register logs the models too; remove one of them")
    for key, value in typed.items():
        names = key.split(".")
        if len(names) == 3 and names[0] == "datasets" and names[1] in datasets:
            _check_source(key, value, datasets[names[1]].source)
        elif len(names) > 1:
            recipes = _recipes(names, members)
            _check_nets(key, value, names, recipes)
            _check_chosen(key, value, names, recipes, keep)


def _check_source(key: str, value: str, source: Source) -> None:
    field = key.rsplit(".", 1)[-1]
    readers = _SOURCES.get(field, frozenset({source}))
    if source not in readers and value != shown(getattr(DatasetSettings(), field, None)):
        only = " or ".join(sorted(readers))
        change = f"for images of your own give {OWN_IMAGES}" if field == "root" else "remove it"
        raise ConfigError(f"{key}={value}: only source={only} reads it, not {source}; {change}")


def _recipes(names: list[str], members: Mapping[str, MemberConfig]) -> list[Recipe]:
    """Returns the stages that a key is about: of one member, of one name, or all."""
    member, stage = (
        names[place] if kind in names and (place := names.index(kind) + 1) < len(names) else None
        for kind in ("members", "stages")
    )
    return [
        recipe
        for one in members.values()
        for name, recipe in one.stages.items()
        if member in (None, one.name) and stage in (None, name)
    ]


def _check_nets(key: str, value: str, names: list[str], recipes: list[Recipe]) -> None:
    group, field = names[-2:]
    models = {recipe.model.name: recipe.model for recipe in recipes}
    nets = sorted(models)
    if group == "model" and field in field_types(ModelSettings) and field not in _ANY_NET:
        readers = (_ALEXNET, *_ALSO_READ_BY.get(field, ()))
        if nets and not set(nets) & set(readers):
            # Imported here, since it loads torch.
            from workers.models import arguments

            only = f"only {' and '.join(readers)} read{'s' if len(readers) == 1 else ''} it"
            theirs = nearest(field, {name for model in models.values() for name in arguments(model)}, 0.6)
            instead = f"give {key.removesuffix(field)}args.{theirs}={value}" if theirs else "remove it"
            raise ConfigError(f"{key}={value}: {only}, not {', '.join(nets)}; {instead}")
    if group == "model" and field == "name" and nets and all(model.file for model in models.values()):
        raise ConfigError(f"{key}={value}: model.file builds the net; remove one of them")
    if group == "model" and field == "function" and nets and not any(model.file for model in models.values()):
        raise ConfigError(f"{key}={value}: is looked up in a file; give model.file too")
    if group == "init" and field in field_types(InitSettings) and nets and not set(nets) & set(MODEL_NAMES):
        raise ConfigError(f"{key}={value}: the builder of {', '.join(nets)} draws its weights; remove it")


def _check_chosen(key: str, value: str, names: list[str], recipes: list[Recipe], keep: str) -> None:
    group, field = names[-2:]
    if (group, field) not in _CHOSEN or value == shown(getattr(getattr(Recipe(), group), field)):
        return
    choice, readers = _CHOSEN[group, field]
    where, switch = f"{group}.{choice}" if choice else "predict.checkpoint", _ALSO_READ_WITH.get((group, field), "")
    found = sorted({getattr(getattr(recipe, group), choice) for recipe in recipes}) if choice else [keep]
    is_on = switch and any(getattr(getattr(recipe, group), switch) for recipe in recipes)
    if found and not is_on and not set(found) & set(readers):
        also = f" or {group}.{switch}=true" if switch else ""
        only = f"only {where}={' or '.join(map(shown, readers))}{also} reads it"
        raise ConfigError(f"{key}={value}: {only}, not {', '.join(map(shown, found))}; remove it")
