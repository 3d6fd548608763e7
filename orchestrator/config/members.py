"""From what is written of an ensemble to its members: layers of defaults, and the grid of a sweep. Pure.

A stage's settings are, each over the one before: the groups (`model`, `optimizer`, …), `ensemble.stages.<stage>`,
the member, the member's stage. A sweep's values lie over its template in the same way.
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
    RootLayer,
    StageConfig,
    StageLayer,
    is_safe_name,
)
from orchestrator.config.structure import choices, field_types, join, mapping, nearest, overlay
from workers.errors import ConfigError
from workers.models import check_name
from workers.settings import TrainingSettings

_SWEEP_USAGE = "ensemble=sweep 'sweep.seed=[0,1,2]' 'sweep.optimizer.lr=[0.01,0.02]'"
_MAX_NAME = 64


@dataclass(frozen=True)
class _Written:
    """One text about a member and the key it stands under."""

    key: str
    values: Mapping[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        return {name: value for name, value in self.values.items() if name not in ("seed", "stages")}

    @property
    def stages(self) -> dict[str, Any]:
        return mapping(self.values.get("stages", {}), join(self.key, "stages"))


def resolve_members(root: RootLayer) -> dict[str, MemberConfig]:
    """All members, those of the sweep first, in the order written.

    Raises:
        ConfigError: an unknown key, a wrong value, an unsafe name, no member at all, or a sweep that makes none.
    """
    members = _sweep_members(root)
    for name, values in mapping(root.ensemble.members, "ensemble.members").items():
        key = f"ensemble.members.{name}"
        if name in members:
            raise ConfigError(f"{key}: the sweep makes a member of that name; give this one another")
        written = _Written(key, mapping(values, key))
        if not written.stages:
            others = [other for other in root.ensemble.members if other != name]
            raise ConfigError(f"{key}.stages: a member needs at least one stage; {choices(name, others)}")
        members[name] = _member(root, name, (written,))
    if not members:
        raise ConfigError("ensemble.members: no member; take one of the groups, as in ensemble=seven")
    return members


def stage_names(members: Mapping[str, MemberConfig]) -> set[str]:
    """The names of all stages of all members."""
    return {stage for member in members.values() for stage in member.stages}


def _member(root: RootLayer, name: str, texts: Sequence[_Written]) -> MemberConfig:
    _check_name("member", name, texts[-1].key)
    groups = {key: getattr(root, key) for key in field_types(TrainingSettings)}
    layer = MemberLayer(**groups)
    for text in texts:
        layer = overlay(layer, text.values, text.key)
    known = tuple(dict.fromkeys(stage for text in texts for stage in text.stages))
    stages = {}
    for stage in known:
        _check_name("stage", stage, f"{texts[-1].key}.stages.{stage}")
        written = StageLayer(**groups)
        shared = root.ensemble.stages.get(stage, {})
        written = _over(written, shared, f"ensemble.stages.{stage}")
        for text in texts:
            written = _over(written, text.settings, text.key)
        for text in texts:
            written = _over(written, text.stages.get(stage, {}), f"{text.key}.stages.{stage}")
        stages[stage] = _stage(written, f"{texts[-1].key}.stages.{stage}", [one for one in known if one != stage])
    return MemberConfig(name, layer.seed, stages)


def _over(layer: StageLayer, values: object, key: str) -> StageLayer:
    """Overlays and folds `epochs` into the schedule at once, so that a later layer's `schedule.epochs` still counts."""
    layer = overlay(layer, values, key)
    if layer.epochs is None:
        return layer
    schedule = overlay(layer.schedule, {"epochs": layer.epochs}, key)
    return dataclasses.replace(layer, schedule=schedule, epochs=None)


def _stage(layer: StageLayer, key: str, siblings: Sequence[str]) -> StageConfig:
    if layer.dataset is None:
        close = nearest(key.rsplit(".", 1)[-1], siblings)
        hint = f"did you mean the stage {close}?" if close else f"as in {key}.dataset=target"
        raise ConfigError(f"{key}.dataset: missing; {hint}")
    check_name(layer.model.name)
    for layer_name, factor in layer.lr_scale.items():
        if factor < 0:
            raise ConfigError(f"{key}.lr_scale.{layer_name}={factor}: give 0 or more")
    if layer.init_from is not None and layer.init_file is not None:
        raise ConfigError(f"{key}: init_from and init_file exclude each other; set one of them to null")
    settings = TrainingSettings(**{name: getattr(layer, name) for name in field_types(TrainingSettings)})
    return StageConfig(
        layer.dataset,
        layer.init_from,
        tuple(sorted(set(layer.reset))),
        tuple(sorted(set(layer.freeze))),
        tuple(sorted(layer.lr_scale.items())),
        settings,
        layer.init_file,
    )


def _check_name(kind: str, name: str, key: str) -> None:
    if not is_safe_name(name):
        raise ConfigError(f"{key}: a {kind}'s name is 1 to 64 of letters, digits and _ . = , - and starts with no sign")
    if kind == "stage" and name == "predictions":
        raise ConfigError(f"{key}: this folder name is taken; give the stage another name")


def _sweep_members(root: RootLayer) -> dict[str, MemberConfig]:
    axes = dict(sorted(_axes(root.sweep, "").items()))
    if root.ensemble.template is None:
        if axes:
            raise ConfigError(f"sweep.{next(iter(axes))}: a sweep needs a template: {_SWEEP_USAGE}")
        return {}
    if not axes:
        raise ConfigError(f"sweep: nothing to sweep over; say what, as in {_SWEEP_USAGE}")
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
            raise ConfigError(f"sweep: the member {name} would be made twice; give each value once")
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
    """A folder-safe name from the values alone, so that a longer list of values leaves the names as they were."""
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
    """Two points with the same settings mean that a swept value is overridden further in, or written twice."""
    seen: list[MemberConfig] = []
    for member in members.values():
        for other in seen:
            if (member.seed, member.stages) == (other.seed, other.stages):
                raise ConfigError(
                    f"sweep: {other.name} and {member.name} would be the same: give each value once, and sweep below "
                    f"sweep.stages.<stage> what ensemble.template.stages sets of {', '.join(axes)}"
                )
        seen.append(member)
