"""Overlays nested plain values on frozen dataclasses and checks every key and value.

Unlike OmegaConf's structured schemas, it keeps dataclasses frozen, reports the full key, and suggests the nearest name.
"""

import dataclasses
import difflib
import math
import types
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from workers.errors import ConfigError

T = TypeVar("T")

WANTED: dict[object, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def overlay(base: T, values: object, key: str) -> T:
    """Returns `base`, a dataclass instance, with its fields replaced by `values`.

    Args:
        base: instance whose class is the schema; nested dataclasses, also those in a mapping, are overlaid in turn.
        values: a mapping from field names to plain values (text, numbers, lists, mappings, None).
        key: dotted key of `base` in the configuration ("" at the root), for messages.

    Raises:
        ConfigError: a key is unknown, or a value has the wrong type or is refused by the dataclass.
    """
    entries = mapping(values, key)
    schema: type = type(base)
    hints = field_types(schema)
    changes: dict[str, Any] = {}
    for name, value in entries.items():
        if name not in hints:
            raise unknown_key(key, name, schema)
        inner = join(key, name)
        current = getattr(base, name)
        if dataclasses.is_dataclass(hints[name]) and not isinstance(current, type):
            changes[name] = overlay(current, value, inner)
        elif (entry := _entry_type(hints[name])) is not None:
            overlaid = {
                one: overlay(current.get(one, entry()), given, join(inner, one))
                for one, given in mapping(value, inner).items()
            }
            changes[name] = {**current, **overlaid}
        else:
            changes[name] = _convert(hints[name], value, inner)
    try:
        return dataclasses.replace(base, **changes)  # type: ignore[type-var]
    except ValueError as error:
        raise ConfigError(join(key, str(error))) from error


def mapping(values: object, key: str) -> dict[str, Any]:
    """Returns `values` as a dict with text keys; raises ConfigError if it is not a mapping."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{key}={shown(values)}: give keys below {key}, as in {key}.<key>=<value>")
    return {str(name): value for name, value in values.items()}


def join(key: str, name: str) -> str:
    """Returns the dotted key of `name` below `key`."""
    return f"{key}.{name}" if key else name


def nearest(name: str, known: Iterable[str], cutoff: float = 0.75) -> str | None:
    """Returns the known name that is most like `name`; None if none is close."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return matches[0] if matches else None


def choices(name: str, known: Iterable[str]) -> str:
    """Returns the end of a message: the nearest known name, if any, then all known names."""
    names = sorted(known)
    close = nearest(name, names)
    known = f"known: {', '.join(names) or 'none'}"
    return f"did you mean {close}? ({known})" if close else known


def unknown_key(key: str, name: str, schema: type) -> ConfigError:
    """Returns the error for a key that `schema` lacks; it suggests a sibling, or the same name further in."""
    fields = field_types(schema)
    inner = {path.rsplit(".", 1)[-1]: path for path in sorted(_leaves(schema), reverse=True)}
    close = inner.get(name) or nearest(name, fields)
    if close is None and (alike := nearest(name, inner, 0.8)):
        close = inner[alike]
    if close is None:
        return ConfigError(f"{join(key, name)}: no such key (known: {', '.join(sorted(fields))})")
    return ConfigError(f"{join(key, name)}: no such key; did you mean {join(key, close)}?")


@cache
def field_types(schema: type) -> dict[str, Any]:
    """Returns the field names of a dataclass and their resolved types, in order."""
    hints = get_type_hints(schema)
    return {field.name: hints[field.name] for field in dataclasses.fields(schema)}


def _leaves(schema: type) -> Iterator[str]:
    for name, hint in field_types(schema).items():
        yield name
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from (f"{name}.{inner}" for inner in _leaves(hint))


def _entry_type(hint: Any) -> Any:
    """Returns the dataclass of the values of a `Mapping[str, dataclass]`; None for any other type."""
    if get_origin(hint) is not Mapping:
        return None
    entry = get_args(hint)[1]
    return entry if dataclasses.is_dataclass(entry) else None


def _convert(hint: Any, value: object, key: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and types.NoneType in arguments:
            return None
        return _alternative(arguments, value, key)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{key}={shown(value)}: give a list, as in {key}=[…]")
        return tuple(_convert(arguments[0], item, f"{key}[{index}]") for index, item in enumerate(value))
    if origin is not None:
        return {name: _convert(arguments[1], item, join(key, name)) for name, item in mapping(value, key).items()}
    if issubclass(hint, StrEnum):
        # YAML reads a bare `off` as false.
        value = "off" if value is False and "off" in list(hint) else value
        if isinstance(value, str) and value in list(hint):
            return hint(value)
        raise ConfigError(f"{key}={shown(value)}: no such value; {choices(shown(value), map(str, hint))}")
    return _scalar(hint, value, key)


def _alternative(kinds: tuple[Any, ...], value: object, key: str) -> Any:
    """Returns `value` as the first of `kinds`, or as a word of the enum that comes second, as in `int | Auto`."""
    first, *words = (kind for kind in kinds if kind is not types.NoneType)
    if str in words and isinstance(value, str):
        return value
    allowed = [WANTED[str]] if str in words else [str(word) for enum in words for word in enum]
    if value in allowed:
        return words[0](value)
    try:
        return _convert(first, value, key)
    except ConfigError as error:
        raise ConfigError(" or ".join((str(error), *allowed))) from None


def _scalar(kind: type, value: object, key: str) -> object:
    is_int = isinstance(value, int) and not isinstance(value, bool)
    if kind is float and (is_int or isinstance(value, float)) and math.isfinite(value):  # type: ignore[arg-type]
        return float(value)  # type: ignore[arg-type]
    if kind is str and is_int:
        return str(value)
    if (kind is int and is_int) or (kind in (bool, str) and isinstance(value, kind)):
        return value
    raise ConfigError(f"{key}={shown(value)}: give {WANTED[kind]}")


def shown(value: object) -> str:
    """Returns a value as YAML spells it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
