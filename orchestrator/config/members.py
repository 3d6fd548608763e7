"""Resolves the members of an ensemble from layers of defaults and from the grid of a sweep. Pure.

The settings of a stage come from these layers, each overriding the one before: the groups (`model`, `optimizer`, …),
`ensemble.stages.<stage>`, the member, the member's stage. A sweep's values override its template in the same way.
"""

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.config.schema import (
    MemberConfig,
    MemberLayer,
    OutsideLayer,
    Precision,
    RootLayer,
    StageLayer,
    check_safe_name,
)
from orchestrator.config.structure import choices, field_types, join, mapping, nearest, overlay, shown
from workers.errors import ConfigError
from workers.models import HEAD, check_name
from workers.settings import KeptCheckpoint, Recipe, TrainingSettings
from workers.training import FUSED, check_optimizer

_SWEEP_USAGE = "ensemble=sweep 'sweep.seed=[0,1,2]' 'sweep.optimizer.lr=[0.01,0.02]'"
_MAX_NAME = 64


@dataclass(frozen=True)
class _Written:
    """Holds a mapping that describes a member, and its key in the configuration."""

    key: str
    values: Mapping[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        return {name: value for name, value in self.values.items() if name not in ("seed", "stages")}

    @property
    def stages(self) -> dict[str, Any]:
        return mapping(self.values.get("stages", {}), join(self.key, "stages"))


def resolve_members(root: RootLayer) -> dict[str, MemberConfig]:
    """Returns all members by name: those of the sweep first, then the others in the order written.

    Raises:
        ConfigError: a key is unknown, a value is wrong, a name is unsafe, or there is no member.
    """
    members = _sweep_members(root)
    for name, values in mapping(root.ensemble.members, "ensemble.members").items():
        key = f"ensemble.members.{name}"
        if name in members:
            raise ConfigError(f"{key}: the sweep makes a member of the same name; rename this one")
        written = _Written(key, mapping(values, key))
        if "predictions" in written.values:
            members[name] = _outside(name, written)
            continue
        if not written.stages:
            others = [other for other in root.ensemble.members if other != name]
            raise ConfigError(f"{key}.stages: a member needs a stage, or predictions; {choices(name, others)}")
        members[name] = _member(root, name, (written,))
    if not members:
        raise ConfigError("ensemble.members: there is no member; choose a group, as in ensemble=seven")
    return members


def _outside(name: str, written: _Written) -> MemberConfig:
    check_safe_name("member", name, written.key)
    if more := sorted(set(written.values) - {"predictions"}):
        raise ConfigError(f"{written.key}.{more[0]}: its predictions come from files; remove it, or predictions")
    layer = overlay(OutsideLayer(), written.values, written.key)
    if not layer.predictions:
        raise ConfigError(f"{written.key}.predictions: names no file; give {written.key}.predictions.test=FILE")
    return MemberConfig(name, None, {}, layer.predictions)


def _member(root: RootLayer, name: str, texts: Sequence[_Written]) -> MemberConfig:
    check_safe_name("member", name, texts[-1].key)
    groups = {key: getattr(root, key) for key in field_types(TrainingSettings)}
    layer = MemberLayer(**groups)
    for text in texts:
        layer = overlay(layer, text.values, text.key)
    known = tuple(dict.fromkeys(stage for text in texts for stage in text.stages))
    stages = {}
    for stage in known:
        key = f"{texts[-1].key}.stages.{stage}"
        check_safe_name("stage", stage, key)
        if stage == "predictions":
            raise ConfigError(f"{key}: this folder name is taken; give the stage another name")
        others = [one for one in known if one != stage]
        settled = (*_refitted(stage, [root.ensemble.stages, *(text.stages for text in texts)], key, others), stage)
        written = StageLayer(**groups)
        for one in settled:
            written = _over(written, root.ensemble.stages.get(one, {}), f"ensemble.stages.{one}")
        for text in texts:
            written = _over(written, text.settings, text.key)
        for one, text in itertools.product(settled, texts):
            written = _over(written, text.stages.get(one, {}), f"{text.key}.stages.{one}")
        stages[stage] = _recipe(written, key, others)
        if root.precision is Precision.fp16 and (optimizer := stages[stage].optimizer.name) not in FUSED:
            give = f"give precision=fp32, or one of {', '.join(FUSED)}"
            raise ConfigError(f"precision=fp16: {key} has optimizer.name={optimizer}; {give}")
        if root.predict.checkpoint is KeptCheckpoint.swa and written.schedule.stop_when_stalled:
            ends = "a stage that stalls may end before averaging.swa_from; give predict.checkpoint=ema or soup"
            raise ConfigError(f"{key}.schedule.stop_when_stalled=true: {ends}")
    return MemberConfig(name, layer.seed, stages)


def _refitted(stage: str, layers: Sequence[Mapping[str, Any]], key: str, others: Sequence[str]) -> tuple[str, ...]:
    """Returns the stage that `stage` refits, whose settings it takes, if it names one."""
    said = (mapping(layer.get(stage, {}), key).get("refit") for layer in layers)
    refitted = tuple(name for name in said if name is not None)[-1:]
    if not set(refitted) <= set(others):
        raise ConfigError(f"{key}.refit={refitted[0]}: no such stage; {choices(str(refitted[0]), others)}")
    return refitted


def _over(layer: StageLayer, values: object, key: str) -> StageLayer:
    """Overlays `values` and moves `epochs` into the schedule: a later layer's `schedule.epochs` must override it."""
    layer = overlay(layer, values, key)
    if layer.epochs is None:
        return layer
    schedule = overlay(layer.schedule, {"epochs": layer.epochs}, key)
    return dataclasses.replace(layer, schedule=schedule, epochs=None)


def _recipe(layer: StageLayer, key: str, siblings: Sequence[str]) -> Recipe:
    if not layer.dataset:
        close = nearest(key.rsplit(".", 1)[-1], siblings)
        hint = f"did you mean the stage {close}?" if close else f"as in {key}.dataset=target"
        raise ConfigError(f"{key}.dataset: missing; {hint}")
    if layer.model.code:
        # It is what makes code run, so no configuration may have it.
        raise ConfigError(f"{key}.model.code={layer.model.code}: planning fills it in; remove it")
    if layer.fold.k:
        raise ConfigError(f"{key}.fold: ensemble=folds gives it, and folds.k how many there are; remove it")
    if layer.model.file is None:
        check_name(layer.model.name)
    else:
        # What builds the net, wherever its name is shown.
        net = {"name": f"{layer.model.file.rpartition('/')[2]}:{layer.model.function}"}
        layer = dataclasses.replace(layer, model=overlay(layer.model, net, f"{key}.model"))
    check_optimizer(layer.optimizer)
    if layer.distil.temperature != 1 and not layer.distil.weight:
        unread = "only distil.weight reads it; give that too, or remove it"
        raise ConfigError(f"{key}.distil.temperature={layer.distil.temperature:g}: {unread}")
    mixes = layer.augmentation.mixup > 0 or layer.augmentation.cutmix > 0
    if mixes and layer.optimizer.micro_batch:
        where = f"{key}.optimizer.micro_batch={layer.optimizer.micro_batch}"
        raise ConfigError(f"{where}: augmentation.mixup and cutmix need whole shards; give optimizer.shards instead")
    pretrained = layer.model.pretrained
    if pretrained is not False and "/" not in layer.model.name:
        why = f"{layer.model.name} has none; give a net of torchvision or timm, as model.name=torchvision/resnet18"
        raise ConfigError(f"{key}.model.pretrained={shown(pretrained)}: {why}")
    starts = {"init_from": layer.init_from, "init_file": layer.init_file, "model.pretrained": pretrained or None}
    given = [name for name, value in starts.items() if value is not None]
    if len(given) > 1:
        clear = f"give {key}.model.pretrained=false" if pretrained else "set one of them to null"
        raise ConfigError(f"{key}: {' and '.join(given)} exclude each other; {clear}")
    written = {name: getattr(layer, name) for name in field_types(Recipe)}
    if pretrained is not False:
        written["reset"] = (*written["reset"], HEAD)
    return Recipe(**{**written, **{name: tuple(sorted(set(written[name]))) for name in ("reset", "freeze")}})


def _sweep_members(root: RootLayer) -> dict[str, MemberConfig]:
    axes = dict(sorted(_axes(root.sweep, "").items()))
    if root.ensemble.template is None:
        if axes:
            raise ConfigError(f"sweep.{next(iter(axes))}: a sweep needs a template: {_SWEEP_USAGE}")
        return {}
    if not axes:
        raise ConfigError(f"sweep: there is nothing to sweep over; give values, as in {_SWEEP_USAGE}")
    template = _Written("ensemble.template", root.ensemble.template)
    known = template.stages
    members: dict[str, MemberConfig] = {}
    for point in itertools.product(*axes.values()):
        values = _nested(dict(zip(axes, point, strict=True)))
        for stage in mapping(values.get("stages", {}), "sweep.stages"):
            if stage not in known:
                raise ConfigError(f"sweep.stages.{stage}: no such stage; {choices(stage, known)}")
        name = _point_name(axes, point)
        if name in members:
            raise ConfigError(f"sweep: two members would have the name {name}; give each value once")
        members[name] = _member(root, name, (template, _Written("sweep", values)))
    _refuse_twins(members, axes)
    return members


def _axes(values: Mapping[str, Any], key: str) -> dict[str, list[Any]]:
    axes: dict[str, list[Any]] = {}
    for name, value in values.items():
        inner = join(key, str(name))
        if isinstance(value, Mapping):
            axes.update(_axes(value, inner))
            continue
        axes[inner] = list(value) if isinstance(value, list | tuple) else [value]
        if not axes[inner]:
            raise ConfigError(f"sweep.{inner}=[]: give at least one value")
    return axes


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, last = key.split(".")
        node = root
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return root


def _point_name(axes: Mapping[str, Any], point: Sequence[Any]) -> str:
    """Returns a folder-safe name. It depends on the point alone, so longer lists of values change no name."""
    last = [key.rsplit(".", 1)[-1] for key in axes]
    labels = [short if last.count(short) == 1 else key for key, short in zip(axes, last, strict=True)]
    name = "_".join(f"{label}-{_value_name(value)}" for label, value in zip(labels, point, strict=True))
    if len(name) <= _MAX_NAME:
        return name
    return f"{name[: _MAX_NAME - 9]}-{_short_digest(name)}"


def _value_name(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    safe = re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-") if not isinstance(value, int | float) else text
    return safe if safe == text else f"{safe}-{_short_digest(text)}".lstrip("-")


def _short_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _refuse_twins(members: Mapping[str, MemberConfig], axes: Mapping[str, list[Any]]) -> None:
    """Raises ConfigError if two points have the same settings: a value is repeated, or the template overrides it."""
    for one, other in itertools.combinations(members.values(), 2):
        if (one.seed, one.stages) == (other.seed, other.stages):
            raise ConfigError(
                f"sweep: {one.name} and {other.name} would be the same: give each value once; if a stage of "
                f"ensemble.template.stages sets {', '.join(axes)}, sweep it below sweep.stages.<stage>"
            )
