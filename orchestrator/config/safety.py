"""Refuses configurations that name classes, are far too large, or copy secrets into the run. Pure; no Hydra."""

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from orchestrator.text import is_secret_name
from workers.errors import ConfigError

# The files of conf/ have a few hundred bytes, a generated sweep a few thousand.
_LARGEST_BYTES = 1 << 20
_MOST_VALUES = 100_000
_DEEPEST = 50
# With these keys Hydra instantiates a class. All are refused.
_INSTANTIATING = frozenset({"_target_", "_partial_", "_args_", "_convert_", "_recursive_"})
_YAML_TAG = "tag:yaml.org,2002:"
_FROM_ENVIRONMENT = re.compile(r"\$\{\s*oc\.env\s*:\s*(?P<name>[^,}]*)")
# Hydra's own settings (callbacks, logging, search path) name classes and files: as a file's package, as a key, or in a
# list of defaults.
_HYDRA_PACKAGE = re.compile(r"^\s*#\s*@package\s+(_global_\.)?hydra\b", re.MULTILINE)
_HYDRA_SETTING = re.compile(r"^(override\s+)?/?hydra([/@.:]|$)|@(_global_\.)?hydra\b")
# A secret is allowed in these addresses: it is hidden wherever they are written.
_MAY_HOLD_SECRETS = frozenset({"tracking.uri"})


def check_folder(folder: Path) -> None:
    """Checks every YAML file below a user's folder before Hydra reads it.

    Raises:
        ConfigError: there is no folder; a file is too large, expands to too many values, has a tag, or is not YAML.
    """
    if not folder.is_dir():
        raise ConfigError(f"--config-dir {folder}: no such folder")
    for path in sorted(folder.rglob("*.y*ml")):
        if path.is_file():
            if (num_bytes := path.stat().st_size) > _LARGEST_BYTES:
                raise ConfigError(f"{path}: {num_bytes} bytes are too many; at most {_LARGEST_BYTES} are allowed")
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"{path}: cannot be read as text in UTF-8 ({error})") from error
            check_text(text, str(path))


def check_text(text: str, where: str) -> None:
    """Raises ConfigError, naming `where`, if YAML has tags, nests too deep, or expands to too many values."""
    try:
        # Hydra ends lines where Python does, which is also at letters that a pattern's ^ passes over.
        if _HYDRA_PACKAGE.search("\n".join(text.splitlines())):
            raise _Refused("# @package hydra would change Hydra's own settings; remove it")
        _check_events(yaml.parse(text, Loader=yaml.SafeLoader))
        _check_hydra(yaml.safe_load(text))
    except (yaml.YAMLError, RecursionError) as error:
        said = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(f"{where}: cannot be read as YAML ({said})") from error
    except _Refused as refused:
        raise ConfigError(f"{where}: {refused}") from None


class _Refused(Exception):
    """Carries the reason why a document is refused."""


def _check_events(events: Iterator[yaml.Event]) -> None:
    """Raises _Refused for a bad document; it counts values as if every alias were expanded."""
    anchors: dict[str, int] = {}
    total = 0
    open_ones: list[tuple[str | None, int]] = []
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            _check_tag(event.tag)
            open_ones.append((event.anchor, total))
            if len(open_ones) > _DEEPEST:
                raise _Refused(f"nested deeper than {_DEEPEST} levels; write it in full")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_ones.pop()
            total += 1
            if anchor is not None:
                anchors[anchor] = total - before
        elif isinstance(event, yaml.AliasEvent):
            # An unknown alias lies inside its own anchor, or has none.
            if event.anchor not in anchors:
                raise _Refused(f"*{event.anchor} has no anchor before it; write it in full")
            total += anchors[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            _check_tag(event.tag)
            total += 1
            if event.anchor is not None:
                anchors[event.anchor] = 1
        if total > _MOST_VALUES:
            raise _Refused(f"its aliases expand to more than {_MOST_VALUES} values; write it in full")


def _check_hydra(document: object) -> None:
    """Raises _Refused if a key of the document, or an entry of its list of defaults, is a setting of Hydra's own."""
    if isinstance(document, dict):
        defaults = document.get("defaults")
        entries = [entry for entry in defaults if entry] if isinstance(defaults, list) else []
        for name in (*document, *(key for entry in entries for key in (entry if isinstance(entry, dict) else [entry]))):
            if _HYDRA_SETTING.search(str(name)):
                raise _Refused(f"{name} would change Hydra's own settings; remove it")


def _check_tag(tag: str | None) -> None:
    if tag not in (None, "!") and (not tag.startswith(_YAML_TAG) or tag.startswith(f"{_YAML_TAG}python")):
        raise _Refused(f"the tag {tag.replace(_YAML_TAG, '!!')} is not allowed; write it in full")


def check_values(value: object, key: str = "") -> None:
    """Checks a composed configuration whose references are still as written.

    Raises:
        ConfigError: a key names a class or is not text, or a secret of the environment would be written into the run.
    """
    if isinstance(value, list):
        for index, item in enumerate(value):
            check_values(item, f"{key}[{index}]")
    elif isinstance(value, dict):
        for name, item in value.items():
            inner = f"{key}.{name}" if key else str(name)
            if name in _INSTANTIATING:
                raise ConfigError(f"{inner}: classes cannot be named in a configuration; remove it")
            if not isinstance(name, str):
                # YAML reads on, yes, 1 and the like as values.
                raise ConfigError(f"{inner}: the key is not text to YAML; put it in quotes in the file that has it")
            check_values(item, inner)
    elif isinstance(value, str) and key not in _MAY_HOLD_SECRETS:
        for found in _FROM_ENVIRONMENT.finditer(value):
            secret = found["name"].strip().strip("'\"")
            if "$" in secret or is_secret_name(secret):
                raise ConfigError(
                    f"{key}={value}: this may write a secret into the run; remove it: libraries read secrets from the "
                    "environment themselves"
                )


def check_path(text: str, key: str) -> None:
    """Raises ConfigError if a path holds control characters: messages name a path on one line."""
    if any(letter < " " or letter == "\x7f" for letter in text):
        raise ConfigError(f"{key}={text!a}: the path holds control characters; rename it")
