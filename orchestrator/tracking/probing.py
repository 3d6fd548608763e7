"""Checks that a tracking store answers, without changing it."""

import contextlib
import sqlite3
import threading

from orchestrator.text import redact
from orchestrator.tracking.connection import check_schema, connect
from orchestrator.tracking.sender import REFUSED_S, Sender, Task
from orchestrator.tracking.uri import check_database_place, sqlite_path, unreachable
from workers.errors import ConfigError

ANSWER_S = 8.0  # the interface promises an end within 10 s


def probe(uri: str, timeout_s: float = ANSWER_S) -> str:
    """Checks that the store answers, without changing it; returns the result in a few words.

    Raises:
        ConfigError: the store does not answer, or is no MLflow store.
    """
    path = sqlite_path(uri)
    if path is not None:
        try:
            check_database_place(path)
            if not path.exists():
                return f"{path} will be made"
            address = f"{path.absolute().as_uri()}?mode=ro"
            with contextlib.closing(sqlite3.connect(address, timeout_s, uri=True)) as database:
                database.execute("SELECT count(*) FROM sqlite_master")
            check_schema(path)
            return f"{path} opens"
        except (ConfigError, sqlite3.Error) as error:
            raise unreachable(uri, str(error)) from error
    sender = Sender(lambda _: None, redact(uri))
    answered = threading.Event()

    def ask() -> None:
        connect(uri)
        answered.set()

    sender.submit(Task(ask, "the question", vital=True, quiet=True))
    problem = sender.wait_for(answered, timeout_s, min(REFUSED_S, timeout_s))
    sender.stop()
    if problem:
        raise unreachable(uri, problem)
    return f"{redact(uri)} answers"
