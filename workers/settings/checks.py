"""Checks of settings. Each raises a ValueError, before which `orchestrator.config.structure` writes the full key."""

from collections.abc import Mapping


def require(holds: bool, message: str) -> None:
    """Raises ValueError with `message`, `<key>=<value>: <what to give>`, unless `holds`."""
    if not holds:
        raise ValueError(message)


def require_least(settings: object, least: int, *names: str) -> None:
    """Raises ValueError if a named setting, or a value of a named mapping, is below `least`."""
    for name in names:
        value = getattr(settings, name)
        given = {f"{name}.{key}": each for key, each in value.items()} if isinstance(value, Mapping) else {name: value}
        for key, each in given.items():
            require(each >= least, f"{key}={each}: give {least} or more")
