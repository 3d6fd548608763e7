"""What a configuration may not do: name classes, blow up, read secrets into what is kept. Plain values, no Hydra."""

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from orchestrator.text import is_secret_name
from workers.errors import ConfigError

# Ours have a few hundred bytes; a generated sweep some thousand.
_LARGEST_BYTES = 1 << 20
_MOST_VALUES = 100_000
_DEEPEST = 50
# Hydra's words for "make this object"; all of them are refused, so that none has to be understood.
_INSTANTIATING = frozenset({"_target_", "_partial_", "_args_", "_convert_", "_recursive_"})
_FROM_ENVIRONMENT = re.compile(r"\$\{\s*oc\.env\s*:\s*(?P<name>[^,}]*)")
# Where an address may hold a secret: it is hidden wherever it is written.
_MAY_HOLD_SECRETS = frozenset({"tracking.uri"})


def check_folder(folder: Path) -> None:
    """Checks every YAML file below a user's folder before anything parses it in earnest.

    Raises:
        ConfigError: one is too large, or would become so; has a tag, or is no YAML.
    """
    for path in sorted(folder.rglob("*.y*ml")):
        if path.is_file():
            if path.stat().st_size > _LARGEST_BYTES:
                raise ConfigError(f"{path}: {path.stat().st_size} bytes are too many for a configuration")
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"{path}: cannot be read as text in UTF-8 ({error})") from error
            check_text(text, str(path))


def check_text(text: str, where: str) -> None:
    """Refuses YAML whose aliases stand for more than anybody writes, that is nested deeper, or that has tags.

    Raises:
        ConfigError: naming `where`.
    """
    try:
        size = _Sizes().of_document(yaml.parse(text, Loader=yaml.SafeLoader))
    except (yaml.YAMLError, RecursionError) as error:
        said = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(f"{where}: cannot be read as YAML ({said})") from error
    except _Refused as refused:
        raise ConfigError(f"{where}: {refused}; write it in full") from None
    assert size <= _MOST_VALUES


class _Refused(Exception):
    """Why a document is refused."""


class _Sizes:
    """Counts values as if every alias were written out, without writing it out."""

    def __init__(self) -> None:
        self._anchors: dict[str, int] = {}

    def of_document(self, events: Iterator[yaml.Event]) -> int:
        total = 0
        open_ones: list[tuple[str | None, int]] = []
        for event in events:
            if isinstance(event, yaml.CollectionStartEvent | yaml.ScalarEvent):
                self._check_tag(event)
            if isinstance(event, yaml.CollectionStartEvent):
                open_ones.append((event.anchor, total))
                if len(open_ones) > _DEEPEST:
                    raise _Refused(f"nested deeper than {_DEEPEST} levels")
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, before = open_ones.pop()
                total += 1
                if anchor is not None:
                    self._anchors[anchor] = total - before
            elif isinstance(event, yaml.AliasEvent):
                # One that is not known yet stands inside itself, or nowhere.
                if event.anchor not in self._anchors:
                    raise _Refused(f"*{event.anchor} stands for nothing that is written before it")
                total += self._anchors[event.anchor]
            elif isinstance(event, yaml.ScalarEvent):
                total += 1
                if event.anchor is not None:
                    self._anchors[event.anchor] = 1
            if total > _MOST_VALUES:
                raise _Refused(f"its aliases stand for more than {_MOST_VALUES} values")
        return total

    @staticmethod
    def _check_tag(event: yaml.CollectionStartEvent | yaml.ScalarEvent) -> None:
        if event.tag is not None and not event.tag.startswith("tag:yaml.org,2002:") and event.tag != "!":
            raise _Refused(f"the tag {event.tag} is not read")
        if event.tag is not None and event.tag.startswith("tag:yaml.org,2002:python"):
            raise _Refused(f"the tag !!{event.tag.rpartition(':2002:')[2] or event.tag} is not read")


def check_values(value: object, key: str = "") -> None:
    """Looks through a composed configuration whose references are still as written.

    Raises:
        ConfigError: a key would name a class, or a secret of the environment would be written into what is kept.
    """
    if isinstance(value, list):
        for index, item in enumerate(value):
            check_values(item, f"{key}[{index}]")
    elif isinstance(value, dict):
        for name, item in value.items():
            inner = f"{key}.{name}" if key else str(name)
            if name in _INSTANTIATING:
                raise ConfigError(f"{inner}: classes cannot be named in a configuration; remove it")
            check_values(item, inner)
    elif isinstance(value, str) and key not in _MAY_HOLD_SECRETS:
        _check_reference(value, key)


def _check_reference(text: str, key: str) -> None:
    for found in _FROM_ENVIRONMENT.finditer(text):
        name = found["name"].strip().strip("'\"")
        if "$" in name or is_secret_name(name):
            raise ConfigError(
                f"{key}={text}: a secret, or a variable that cannot be told, would be written into the run; libraries "
                "read secrets from the environment themselves"
            )


def check_path(text: str, key: str) -> None:
    """Refuses a path that no file can have, or that would not fit on the lines that name it."""
    if any(letter < " " or letter == "\x7f" for letter in text):
        raise ConfigError(f"{key}={text!a}: control characters in a path; rename it")
