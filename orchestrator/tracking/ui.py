"""Serves the MLflow UI of a run's store: starts MLflow's server, prints its address, and ends it with the caller.

It takes no lock: it can read the store while a launch writes it.
"""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from orchestrator.run import RunPaths, read_record
from orchestrator.text import redact
from orchestrator.tracking.uri import artifact_root, sqlite_path
from orchestrator.tracking.view import TRAINING_PAGES
from workers.errors import ConfigError

_START_S = 60.0  # MLflow's server takes 3–8 s, more on a busy machine
_ASK_S = 2.0
_POLL_S = 0.2
_STOP_S = 5.0


@dataclass(frozen=True)
class Target:
    """Names the store to show, and in it, if they are known, the ensemble's run and its saved view."""

    uri: str
    experiment_id: str = ""
    run_id: str = ""
    view: str = ""


def find_target(run_dir: Path | None, default_uri: str) -> Target:
    """Returns the store that `run_dir` was tracked in, or the default store.

    Raises:
        DataError: there is no such run directory.
        ConfigError: the run was not tracked, its database is missing, or its URI had a password, which is not kept.
    """
    target = Target(default_uri)
    if run_dir is not None:
        ids: Mapping[str, Any] = read_record(RunPaths(run_dir)).mlflow
        if not ids.get("uri"):
            raise ConfigError(
                f"{run_dir} was not tracked in MLflow; `septet ui` without RUN_DIR shows the default store"
            )
        target = Target(*(str(ids.get(name, "")) for name in ("uri", "experiment_id", "run_id", "view")))
        if redact(default_uri) == target.uri:  # run.json keeps no password
            target = replace(target, uri=default_uri)
        elif "***" in target.uri:
            raise ConfigError(f"run.json keeps no password of {target.uri}; put the whole URI into MLFLOW_TRACKING_URI")
    path = sqlite_path(target.uri)
    if path is not None and not path.exists():
        raise ConfigError(f"there is no tracking store {path} yet; use `septet launch` first, or give a RUN_DIR")
    return target


def open_ui(target: Target, stream: IO[str], host: str = "127.0.0.1", port: int = 5000) -> None:
    """Prints the UI's address; a store that is not a server itself is served until Ctrl-C.

    With `port` 0, or a port that is taken, any free port is used.

    Raises:
        ConfigError: MLflow's server does not start.
    """
    if target.uri.startswith(("http://", "https://")):
        stream.write(f"MLflow UI: {page(redact(target.uri).replace('***@', ''), target)}\n")
        return
    stream.write(f"starting the MLflow UI on {redact(target.uri)} …\n")
    stream.flush()
    with serving(target.uri, host, port) as server, contextlib.suppress(KeyboardInterrupt):
        stream.write(f"MLflow UI: {page(server.address, target)}\npress Ctrl-C to stop it\n")
        stream.flush()
        code = server.process.wait()
        raise ConfigError(f"the MLflow UI ended with code {code}: {server.last_line()}")


def page(address: str, target: Target) -> str:
    """Returns the address of the target's experiment in the UI at `address`, or of the UI's first page.

    That is the page of training runs. For a view that is not there MLflow would show its pages for chat bots.
    """
    address = address.rstrip("/")
    if not target.experiment_id:
        return address
    view = f"&compareRunsMode=CHART&viewStateShareKey={target.view}" if target.view else ""
    return f"{address}/#/experiments/{target.experiment_id}/runs?{TRAINING_PAGES}{view}"


@dataclass(frozen=True)
class Server:
    """Holds MLflow's server, in its own process group, with its output in `log`."""

    address: str
    process: subprocess.Popen[bytes]
    log: IO[bytes]

    def last_line(self) -> str:
        """Returns the last line that it wrote."""
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").strip().splitlines()
        return redact(lines[-1].strip()) if lines else "it wrote nothing"


@contextlib.contextmanager
def serving(uri: str, host: str = "127.0.0.1", port: int = 0, timeout_s: float = _START_S) -> Iterator[Server]:
    """Serves the UI of a store while the block runs; the server answers when the block begins.

    Raises:
        ConfigError: the server ended, or did not answer within `timeout_s`.
    """
    port = _free_port(host, port)
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    with tempfile.TemporaryFile() as log:
        # Without --app-dir, uvicorn would import modules from the working directory first.
        apart = f"--app-dir {shlex.quote(sys.prefix)}"
        words = ["--host", host, "--port", str(port), "--workers", "1", "--uvicorn-opts", apart]
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "mlflow", "server", *words],
            env=_environment(uri, shown),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches only us, and we end the whole group
        )
        server = Server(f"http://{f'[{shown}]' if ':' in shown else shown}:{port}", process, log)
        try:
            _await_answer(server, timeout_s)
            yield server
        finally:
            _end(process)


def _environment(uri: str, shown: str) -> dict[str, str]:
    """Returns the server's environment; it holds the URI, since any user can read a password on a command line."""
    root = artifact_root(uri)
    settings = {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    if root is not None:
        settings["MLFLOW_ARTIFACTS_DESTINATION"] = str(root)
    # The names by which a browser may address the server; any port, since it may be forwarded. A name with a star is a
    # pattern, in which a bracket begins a set of characters.
    names = ("localhost", f"[{shown}]" if ":" in shown else shown)
    allowed = [each for name in names for each in (name, f"{name.replace('[', '[[]', 1)}:*")]
    # A request by another name may come from another site's page (DNS rebinding); MLflow itself allows private
    # addresses. To serve under another name, set this variable, as for MLflow.
    defaults = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(allowed)}
    # -P does not reach uvicorn, which MLflow starts and which would import from the working directory first.
    settings |= {"MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "false", "PYTHONSAFEPATH": "1"}
    return defaults | os.environ | settings


def _free_port(host: str, wanted: int) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, wanted))
        except PermissionError as error:
            raise ConfigError(f"port {wanted} of {host} is not allowed; choose one above 1023") from error
        except OSError:
            if wanted == 0:
                raise ConfigError(f"{host} is not an address of this machine") from None
            return _free_port(host, 0)
        return int(probe.getsockname()[1])


def _await_answer(server: Server, timeout_s: float) -> None:
    until = time.monotonic() + timeout_s
    while True:
        # URLError is an OSError.
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{server.address}/health", timeout=_ASK_S) as answer:
            if answer.status == 200:
                return
        if server.process.poll() is not None:
            raise ConfigError(f"the MLflow UI does not start: {server.last_line()}")
        if time.monotonic() >= until:
            raise ConfigError(f"the MLflow UI does not answer at {server.address} after {timeout_s:.0f} s")
        time.sleep(_POLL_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
