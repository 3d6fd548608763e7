"""What settings are refused for: a ValueError that `orchestrator.config.structure` puts the full key before."""


def require(holds: bool, message: str) -> None:
    """Raises ValueError with `message`, `<key>=<value>: <what to give>`, unless it holds."""
    if not holds:
        raise ValueError(message)


def require_least(settings: object, least: int, *names: str) -> None:
    """Requires of each named setting that it is not below `least`."""
    for name in names:
        value = getattr(settings, name)
        require(value >= least, f"{name}={value}: give {least} or more")
