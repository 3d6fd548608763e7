"""Connects to an MLflow store, and makes a database that does not exist yet."""

import contextlib
import logging
import os
import re
import sqlite3
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.tracking.uri import artifact_root, check_database_place, sqlite_path
from workers.errors import ConfigError, StorageError
from workers.storage import TEMPORARY_PREFIX, fsync, locked

if TYPE_CHECKING:
    from mlflow import MlflowClient

_MAKING_S = 60.0  # it takes 2 to 5 s, more on a busy machine
# What SQLite, and MLflow's migrations, say of a database that was made only in part, or is none.
_BROKEN = re.compile(
    r"(?:table \S+ already exists|duplicate column name|no such (?:table|column)|malformed|not a database|"
    r"Online migration expected)[^\n]*"
)


def connect(uri: str) -> "MlflowClient":
    """Connects to a store, which answers; makes a database that does not exist yet.

    Raises:
        ConfigError: the database cannot be made or written, is broken, or was made by another version of MLflow.
    """
    make_database(uri)
    _set_up_mlflow()
    from alembic.util import CommandError
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import DatabaseError

    try:
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    except (MlflowException, DatabaseError, CommandError) as error:
        path, broken = sqlite_path(uri), _BROKEN.search(str(error))
        if path is not None and broken is None:
            check_schema(path)
        if path is None or broken is None:
            raise
        raise ConfigError(
            f"{path} is broken ({broken[0]}), perhaps by a kill while another program made it: move it away, then run "
            "it again; each launch fills the new one with its run"
        ) from error
    return client


def check_schema(path: Path) -> None:
    """Checks, without a change, that this MLflow can use the tables of a SQLite file; a file without any is fine.

    MLflow calls every other version "out-of-date", a newer one too, which `mlflow db upgrade` cannot help.

    Raises:
        ConfigError: they are of an older or a newer MLflow; the line says what to run.
    """
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            ((found,),) = database.execute("SELECT version_num FROM alembic_version")
    except (sqlite3.Error, ValueError):
        # No tables, locked, or no database of MLflow's: MLflow tells these apart.
        return
    _set_up_mlflow()
    import mlflow
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError
    from mlflow.store.db.utils import _get_alembic_config

    known = ScriptDirectory.from_config(_get_alembic_config(""))
    advice = f"copy it, then run `mlflow db upgrade 'sqlite:///{path.absolute()}'`, or move it away"
    try:
        if found == known.get_current_head():
            return
        known.get_revision(found)
    except CommandError:
        advice = "run `pip install --upgrade mlflow`, or give another tracking.uri"
    raise ConfigError(f"{path} has the tables of another MLflow than {mlflow.__version__}, which is here: {advice}")


def make_database(uri: str) -> None:
    """Makes the database of a `sqlite:` address if there is none; of several processes only one does.

    It has a temporary name until it is whole: MLflow itself would leave a part after a kill, and two processes would
    disturb each other.

    Raises:
        ConfigError: it cannot be made there.
    """
    path = sqlite_path(uri)
    if path is None:
        return
    check_database_place(path)
    if path.exists():
        return
    _set_up_mlflow()
    from mlflow.exceptions import MlflowException
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy.exc import DatabaseError

    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    until = time.monotonic() + _MAKING_S

    def waiting() -> None:
        if time.monotonic() > until:
            raise ConfigError(f"{path}: another process has been making it for {_MAKING_S:.0f} s; end that one")

    try:
        uri.encode()
        with locked(path.with_name(f"{path.name}.lock"), waiting):
            if path.exists():
                return
            for left in (temporary, temporary.with_name(f"{temporary.name}-journal")):
                left.unlink(missing_ok=True)
            # In memory first: on a disk each of MLflow's 331 statements would wait for it.
            memory, artifacts = f"file:{uuid.uuid4()}?mode=memory&cache=shared", artifact_root(uri)
            with contextlib.closing(sqlite3.connect(memory, uri=True)) as made:
                SqlAlchemyStore(f"sqlite:///{memory}&uri=true", str(artifacts)).engine.dispose()
                with contextlib.closing(sqlite3.connect(temporary)) as copy:
                    made.backup(copy)
            fsync(temporary)
            temporary.replace(path)
            fsync(path.absolute().parent)
    except (MlflowException, DatabaseError, sqlite3.Error, OSError, StorageError, UnicodeError) as error:
        # UnicodeError: a folder's name is not UTF-8, but an address has to be.
        raise ConfigError(f"{path} cannot be made ({str(error).splitlines()[0]})") from error


def _set_up_mlflow() -> None:
    """Sets what MLflow reads when it is loaded; also where it was loaded before."""
    # The sender retries; MLflow's default is 7 silent retries of 120 s.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "8")
    # Overrides the environment: MLflow repeats creations too, without checking whether one succeeded.
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # Otherwise it prints the addresses of a server's runs to stdout, which is for results.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    import mlflow.store.db.utils  # noqa: F401 - its import sets the levels

    # MLflow also logs what it raises, with tracebacks; the exception is enough.
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)
    logging.getLogger("alembic").setLevel(logging.WARNING)
