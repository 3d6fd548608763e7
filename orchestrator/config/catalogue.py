"""Lists groups, their choices, and keys with defaults, from the files of `conf` and the schema alone. No Hydra here."""

import dataclasses
import re
import types
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import conf
from orchestrator.config.schema import GROUPS, MemberLayer, OutsideLayer, RootLayer, StageLayer, StoresLayer
from orchestrator.config.structure import WANTED, choices, field_types, join, shown
from orchestrator.text import table
from workers.errors import ConfigError
from workers.settings import DatasetSettings, TrainingSettings

# What most people set, besides groups; shown by `--help`.
COMMON = (
    *("datasets.target.root", "datasets.target.size", "schedule.epochs", "optimizer.lr", "optimizer.batch_size"),
    *("seed", "name", "run_dir", "submission.template", "cluster.address"),
)


@dataclass(frozen=True)
class Key:
    """One key: its dotted name, its default, and what it takes: kinds like "a number", or words to choose from."""

    name: str
    default: str
    takes: tuple[str, ...]

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(word for word in self.takes if " " not in word and word != "null")


def group_choices(group: str) -> dict[str, str]:
    """Returns the names of a group's choices, and the first sentence of each file."""
    found = {}
    for path in sorted((Path(str(conf.__file__)).parent / group).glob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        comment = " ".join(line[2:] for line in lines if line.startswith("# ") and "@package" not in line)
        found[path.stem] = re.split(r"(?<=\.) ", comment, maxsplit=1)[0]
    return found


def group_keys(group: str) -> Iterator[Key]:
    """Yields the keys that a group sets; "" for those that belong to no group."""
    if group == "":
        yield from _keys("", RootLayer(), besides=(*GROUPS, "datasets"))
        yield from _keys("datasets", StoresLayer())
    elif group == "dataset":
        yield from _keys("datasets.target", DatasetSettings())
    elif dataclasses.is_dataclass(value := getattr(RootLayer(), group, None)):
        yield from _keys(group, value)
    if group == "ensemble":
        training = field_types(TrainingSettings)
        yield from _keys("ensemble.members.<member>", MemberLayer(), besides=training)
        yield from _keys("ensemble.members.<member>", OutsideLayer())
        yield from _keys("ensemble.members.<member>.stages.<stage>", StageLayer(), besides=training)


def _keys(prefix: str, value: Any, besides: Container[str] = ()) -> Iterator[Key]:
    schema: type = type(value)
    for name, hint in field_types(schema).items():
        key, default = join(prefix, name), getattr(value, name)
        if name in besides:
            continue
        if dataclasses.is_dataclass(default):
            yield from _keys(key, default)
        else:
            kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
            text = shown(list(default) if isinstance(default, tuple) else default)
            yield Key(key, text, tuple(word for kind in kinds for word in _takes(kind)))


def _takes(kind: Any) -> tuple[str, ...]:
    if kind is types.NoneType:
        return ("null",)
    if get_origin(kind) is not None or kind is Any:
        return ("a list" if get_origin(kind) is tuple else "keys below it",)
    return tuple(WANTED[kind].split(" or ")) if kind in WANTED else tuple(map(str, kind))


def overview_lines(*, common: bool) -> Iterator[str]:
    """Yields the groups with their choices, then the keys that most people set (`common`) or those outside groups."""
    yield "groups (GROUP=CHOICE; more on each: `septet help config GROUP`):"
    yield from _table([(group, " ".join(group_choices(group))) for group in GROUPS])
    keys = {key.name: key for group in ("", *GROUPS) for key in group_keys(group)}
    yield f"\n{'often set' if common else 'outside groups'} (KEY=VALUE):"
    yield from _key_table([keys[name] for name in COMMON] if common else [*group_keys("")])


def group_lines(group: str) -> Iterator[str]:
    """Yields a group's choices with what they are, then its keys.

    Raises:
        ConfigError: there is no such group.
    """
    if group not in GROUPS:
        raise ConfigError(f"help config {group}: no such group; {choices(group, GROUPS)}")
    yield f"choices ({'dataset@datasets.target' if group == 'dataset' else group}=CHOICE):"
    yield from _table([*group_choices(group).items()])
    if keys := [*group_keys(group)]:
        yield "\nkeys, their defaults (a choice may set others), and what they take:"
        yield from _key_table(keys)


def _key_table(keys: list[Key]) -> Iterator[str]:
    return _table([(key.name, key.default, " or ".join(key.takes)) for key in keys])


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    return (f"  {line}" for line in table(rows, 3))
