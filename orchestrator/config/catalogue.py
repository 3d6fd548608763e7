"""Lists groups, their choices, and keys with defaults, from the files of `conf` and the schema alone. No Hydra here."""

import dataclasses
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import conf
from orchestrator.config.schema import (
    GROUPS,
    EnsembleLayer,
    MemberLayer,
    RootLayer,
    StageLayer,
    StoresLayer,
)
from orchestrator.config.structure import choices, field_types, join, shown
from workers.errors import ConfigError
from workers.settings import DatasetSettings

_FOLDER = Path(str(conf.__file__)).parent
# What most people set, besides groups; shown by `--help`.
COMMON = (
    *("datasets.target.root", "datasets.superset.root", "datasets.target.size", "schedule.epochs", "optimizer.lr"),
    *("optimizer.batch_size", "seed", "name", "run_dir", "submission.template", "cluster.address"),
)
_WORDS = {bool: ("true", "false"), int: ("a whole number",), float: ("a number",), str: ("text",)}


@dataclass(frozen=True)
class Key:
    """One key: its dotted name, its default as YAML spells it, and what it takes: words to choose from, or a kind."""

    name: str
    default: str
    takes: tuple[str, ...]
    is_choice: bool


def group_choices(group: str) -> dict[str, str]:
    """Returns the names of a group's choices, and the first sentence of each file."""
    return {path.stem: _sentence(path) for path in sorted((_FOLDER / group).glob("*.yaml"))}


def _sentence(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = " ".join(line[1:].strip() for line in lines if line.startswith("#") and "@package" not in line)
    return re.split(r"(?<=\.) ", comment, maxsplit=1)[0]


def group_keys(group: str) -> tuple[Key, ...]:
    """Returns the keys that a group sets; "" for those that belong to no group."""
    root = field_types(RootLayer)
    if group == "dataset":
        return tuple(_keys("datasets.target", DatasetSettings()))
    if group == "ensemble":
        own = {name: hint for name, hint in field_types(StageLayer).items() if name not in root}
        seed = {"seed": field_types(MemberLayer)["seed"]}
        member = "ensemble.members.<member>"
        of_stage = _keys(f"{member}.stages.<stage>", StageLayer(), own)
        return (*_keys("ensemble", EnsembleLayer()), *_keys(member, MemberLayer(), seed), *of_stage)
    if group:
        value = getattr(RootLayer(), group, None)
        return tuple(_keys(group, value)) if dataclasses.is_dataclass(value) else ()
    others = {name: hint for name, hint in root.items() if name not in (*GROUPS, "datasets")}
    return (*_keys("", RootLayer(), others), *_keys("datasets", StoresLayer()))


def _keys(prefix: str, value: Any, hints: Mapping[str, Any] | None = None) -> Iterator[Key]:
    schema: type = type(value)
    for name, hint in (hints or field_types(schema)).items():
        key, default = join(prefix, name), getattr(value, name)
        if dataclasses.is_dataclass(default):
            yield from _keys(key, default)
        else:
            is_choice = any(isinstance(kind, type) and issubclass(kind, StrEnum | bool) for kind in _kinds(hint))
            text = "[" + ", ".join(map(shown, default)) + "]" if isinstance(default, tuple) else shown(default)
            yield Key(key, text, tuple(_takes(hint)), is_choice)


def _kinds(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _takes(hint: Any) -> Iterator[str]:
    for kind in _kinds(hint):
        if kind is types.NoneType:
            yield "null"
        elif isinstance(kind, type) and issubclass(kind, StrEnum):
            yield from map(str, kind)
        elif kind in _WORDS:
            yield from _WORDS[kind]
        else:
            yield "a list" if get_origin(kind) is tuple else "keys below it"


def overview_lines() -> Iterator[str]:
    """Yields the groups with their choices, then the keys outside groups."""
    yield "groups (choose with GROUP=CHOICE; `septet help config GROUP` has the details):"
    yield from _group_table()
    yield ""
    yield "keys outside groups (set with KEY=VALUE):"
    yield from _table([(key.name, key.default, " or ".join(key.takes)) for key in group_keys("")])


def group_lines(group: str) -> Iterator[str]:
    """Yields a group's choices with what they are, then its keys: name, default, what they take.

    Raises:
        ConfigError: there is no such group.
    """
    if group not in GROUPS:
        raise ConfigError(f"help config {group}: no such group; {choices(group, GROUPS)}")
    asked = "dataset@datasets.target" if group == "dataset" else group
    yield f"choices ({asked}=CHOICE):"
    yield from _table(list(group_choices(group).items()))
    if keys := group_keys(group):
        yield ""
        yield "keys, their defaults (a choice may set others), and what they take:"
        yield from _table([(key.name, key.default, " or ".join(key.takes)) for key in keys])


def common_lines() -> Iterator[str]:
    """Yields the groups with their choices, and the keys that most people set, for `--help`."""
    known = {key.name: key for group in ("", *GROUPS) for key in group_keys(group)}
    known |= {name.replace("target", "superset"): key for name, key in known.items() if name.startswith("datasets.")}
    yield "groups (GROUP=CHOICE):"
    yield from _group_table()
    yield ""
    yield "keys that are often set (KEY=VALUE; all: `septet help config [GROUP]`):"
    yield from _table([(name, known[name].default, " or ".join(known[name].takes)) for name in COMMON])


def _group_table() -> Iterator[str]:
    return _table([(group, " ".join(group_choices(group))) for group in GROUPS])


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return (f"  {'  '.join(map(str.ljust, row, widths))}".rstrip() for row in rows)
