"""Parses single Hydra overrides, checks them against the groups, and prepares them for composing."""

import re
from collections.abc import Sequence
from typing import Any

import yaml
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from orchestrator.config.schema import GROUPS
from orchestrator.config.structure import choices, shown
from orchestrator.config.words import OWN_IMAGES, check_word, instead_of
from workers.errors import ConfigError

# Nobody types this much; the parser recurses on nested brackets.
_LONGEST, _SHOWN = 1 << 16, 80
# What Hydra and OmegaConf raise on files of an unexpected form.
_UNCAUGHT = (ValueError, TypeError, LookupError, AttributeError, AssertionError, OSError)
_PLAIN = re.compile(r"(?P<key>[\w+][\w.@+-]*)=(?P<value>[^\s\[{'\"$,][^\[\]{}'\",]*)")


def one_line(action: Any) -> Any:
    """Runs a Hydra or OmegaConf action; raises ConfigError with the first line of their errors."""
    try:
        return action()
    except (HydraException, OmegaConfBaseException) as error:
        # Hydra's own text may be no more than a class's name.
        text = str(error) if " " in str(error).strip() else f"{error.__cause__ or error}"
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        key = getattr(error, "full_key", None)
        where = f"{key}: " if key else ""
        raise ConfigError(where + (lines[0] if lines else type(error).__name__)) from error
    except (yaml.YAMLError, RecursionError, *_UNCAUGHT) as error:
        # Hydra does not catch these.
        raise ConfigError(" ".join(str(error).split()) or f"cannot be read ({type(error).__name__})") from error


def parse(text: str, loader: ConfigLoader) -> Override:
    """Parses one override; raises ConfigError if it is not one, or if it is a Hydra sweep."""
    parser = OverridesParser.create(loader)
    if len(text) > _LONGEST:
        raise ConfigError(f"{text[:_SHOWN]}…: {len(text)} characters are too many; use a file (--config-dir)")
    plain = _PLAIN.fullmatch(text)
    try:
        try:
            override = parser.parse_overrides([text])[0]
        except HydraException:
            if plain is None:
                raise
            # Hydra's grammar refuses characters that paths may hold (~, parentheses); such a value can only be text.
            override = parser.parse_overrides([f"{plain['key']}={quoted(plain['value'])}"])[0]
    except (RecursionError, ValueError) as error:
        raise ConfigError(f"{text[:_SHOWN]}…: cannot be read ({type(error).__name__})") from error
    except HydraException as error:
        raise ConfigError(
            f"{text}: not an override; write key=value, and put quotes around a value with commas, brackets or "
            "symbols, as in \"key='a value'\""
        ) from error
    if override.is_sweep_override():
        key = override.key_or_group.removeprefix("sweep.")
        raise ConfigError(
            f"{text}: several values; write a list ({override.key_or_group}=[a,b]), put a value with a comma in quotes "
            f"('{key}=\"a,b\"'), or give ensemble=sweep with sweep.{key}=[a,b]"
        )
    return override


def quoted(text: str) -> str:
    """Returns `text` as a value in quotes."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def implied_experiment(overrides: Sequence[Override]) -> tuple[str, ...]:
    """Returns the experiment on images of one's own, if only the target's root says that it is meant; else nothing."""
    typed = {one.package or one.key_or_group: one.value() for one in overrides if not one.is_delete()}
    target = typed.get("datasets.target", {})
    if isinstance(target, dict):
        typed |= {f"datasets.target.{key}": value for key, value in target.items()}
        if typed.get("datasets.target.root") and not {"experiment", "datasets.target.source"} & typed.keys():
            return (OWN_IMAGES,)
    return ()


def check_override(override: Override, loader: ConfigLoader, prefix: list[str]) -> None:
    """Raises ConfigError if a group's option does not exist; plain keys are checked after composing."""
    group = override.key_or_group
    if group.split(".", 1)[0] == "hydra":
        raise ConfigError(f"{override.input_line}: Hydra's own settings have no effect here; remove it")
    if override.package is not None and group not in GROUPS:
        raise ConfigError(f"{group}@{override.package}: no such group; {choices(group, GROUPS)}")
    if override.is_delete():
        return
    if group not in GROUPS:
        check_word(group, str(override.input_line).partition("=")[2], override.value())
        return
    options = loader.get_group_options(group, overrides=prefix)
    value = override.value()
    said = f"{_key_of(override)}={shown(value)}: no such {group}"
    if value not in options and (advice := instead_of(group, shown(value))):
        raise ConfigError(f"{said}; {advice}")
    if group == "dataset" and not (override.package or "").startswith("datasets."):
        raise ConfigError(f"{override.input_line}: say for which dataset, as in dataset@datasets.target=folder")
    if value not in options:
        raise ConfigError(f"{said}; {choices(shown(value), options)}")


def _key_of(override: Override) -> str:
    return override.key_or_group if override.package is None else f"{override.key_or_group}@{override.package}"


def ready(override: Override, selected: frozenset[str]) -> str:
    """Returns the text for Hydra: plain values may make new keys (they are checked later), new packages get a `+`.

    `selected` holds each `group@package` of the defaults.
    """
    text = str(override.input_line)
    if override.type is OverrideType.ADD and override.package is None and override.key_or_group in GROUPS:
        # `+experiment=…`, as other projects have it: here every group is in the list of defaults.
        return text.removeprefix("+")
    if override.type is OverrideType.ADD and override.package is None:
        return f"+{text}"
    if override.type is not OverrideType.CHANGE:
        return text
    if override.key_or_group not in GROUPS:
        return f"++{text}"
    if override.package is not None and _key_of(override) not in selected:
        return f"+{text}"
    return text
