"""Checks of settings. Each raises a ValueError, before which `orchestrator.config.structure` writes the full key."""


def require(holds: bool, message: str) -> None:
    """Raises ValueError with `message`, `<key>=<value>: <what to give>`, unless `holds`."""
    if not holds:
        raise ValueError(message)


def require_least(settings: object, least: int, *names: str) -> None:
    """Raises ValueError if a named setting is below `least`."""
    for name in names:
        value = getattr(settings, name)
        require(value >= least, f"{name}={value}: give {least} or more")
