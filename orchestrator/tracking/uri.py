"""Reads tracking URIs, without asking the store and without loading mlflow."""

import os
import re
from pathlib import Path
from urllib.parse import unquote

from orchestrator.text import redact
from workers.errors import ConfigError


def is_local(uri: str) -> bool:
    """Returns whether the store is a file of this machine, so that no network is involved."""
    return uri.startswith(("sqlite:", "file:", "/"))


def sqlite_path(uri: str) -> Path | None:
    """Returns the database file of `sqlite:///…`; None for any other store and for one in memory."""
    if not uri.startswith("sqlite:") or "///" not in uri:
        return None
    path = unquote(uri.split("///", 1)[1].partition("?")[0])
    return Path(path) if path and path != ":memory:" else None


def meant(uri: str) -> str | None:
    """Returns the address that is likely meant by one that MLflow takes for a folder; None for any other.

    `localhost:5000` means a server, `/data/mlflow.db` a database.
    """
    if re.fullmatch(r"[\w.-]+:\d+(?:/.*)?", uri):
        return f"http://{uri}"
    path = uri.removeprefix("file://")
    return f"sqlite:///{path}" if path.startswith("/") and path.endswith((".db", ".sqlite", ".sqlite3")) else None


def unreachable(uri: str, problem: str) -> ConfigError:
    """Returns the error for a store that a launch needs and that does not answer."""
    if (address := meant(uri)) is not None:
        return ConfigError(f"tracking store {redact(uri)} is no address: did you mean tracking.uri={redact(address)}?")
    return ConfigError(
        f"tracking store {redact(uri)} cannot be used: {problem}; start it, correct tracking.uri, "
        "or use tracking.required=false to continue without it"
    )


def artifact_root(uri: str) -> Path | None:
    """Returns the folder of a local store's artifacts, `mlartifacts` beside the database; None if a server decides."""
    path = sqlite_path(uri)
    return None if path is None else path.absolute().parent / "mlartifacts"


def check_database_place(path: Path) -> None:
    """Raises ConfigError if a SQLite file cannot be made or written.

    MLflow itself would make missing folders, or retry for 100 s (measured) before it reports the error.
    """
    needed = path if path.exists() else path.absolute().parent
    if not needed.exists():
        raise ConfigError(f"there is no folder {needed}")
    if not os.access(needed, os.W_OK):
        raise ConfigError(f"{needed} is not writable")
