"""Paths as people write them."""

from pathlib import Path

from workers.errors import DataError, SeptetError


def expanded(path: str | Path, error: type[SeptetError] = DataError) -> Path:
    """Returns `path` with a leading ~ or ~name as that home folder; raises `error` if this machine has no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as unknown:
        raise error(f"{path}: this machine has no user with that home folder; write the path in full") from unknown
