"""Where an MLflow store is: what a tracking URI says, without asking it and without loading mlflow."""

import os
from pathlib import Path
from urllib.parse import unquote

from workers.errors import ConfigError

# How long the end of a run waits for a store that does not answer.
CLOSE_S = 10.0


def is_local(uri: str) -> bool:
    """Whether the store is a file of this machine, which needs no network to answer."""
    return uri.startswith(("sqlite:", "file:", "/"))


def sqlite_path(uri: str) -> Path | None:
    """The database file of `sqlite:///…`, None for another store and for one in memory."""
    if not uri.startswith("sqlite:") or "///" not in uri:
        return None
    path = unquote(uri.split("///", 1)[1].partition("?")[0])
    return Path(path) if path and path != ":memory:" else None


def artifact_root(uri: str) -> Path | None:
    """Where a local store's artifacts go: `mlartifacts` beside the database; None where the server decides."""
    path = sqlite_path(uri)
    return None if path is None else path.absolute().parent / "mlartifacts"


def check_database_place(path: Path) -> None:
    """Raises ConfigError where a SQLite file could not be made or written.

    MLflow itself would make missing folders, or try for 100 s (measured) before it says that it cannot.
    """
    needed = path if path.exists() else path.absolute().parent
    if not needed.exists():
        raise ConfigError(f"there is no folder {needed}")
    if not os.access(needed, os.W_OK):
        raise ConfigError(f"{needed} is not writable")
