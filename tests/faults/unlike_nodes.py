"""A Ray cluster of nodes that differ: each has a host name, mounts and import path of its own, on this machine.

Needs the rights to make name spaces (`unshare`).
"""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from oracle import CHECKOUT, child_environment

OPEN = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}
UP_S = 120.0
_START = (sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats")
_SMALL = ("--object-store-memory=80000000", "--include-dashboard=false")


@dataclass(frozen=True)
class Unlike:
    """What a node has else than the driver: another import path, and folders that it does not see."""

    path: Path | None = None
    hidden: tuple[Path, ...] = ()
    cpus: int = 1


def copied_code(folder: Path, *, kernels: bool = True, changed: bool = False) -> Path:
    """A copy of the packages, without the compiled kernels, or with a line more in a file that trains."""
    left_out = shutil.ignore_patterns("__pycache__", *(() if kernels else ("*.so",)))
    for name in ("orchestrator", "workers"):
        shutil.copytree(CHECKOUT / name, folder / name, ignore=left_out)
    if changed:
        with (folder / "workers" / "training" / "gradients.py").open("a") as file:
            file.write("# another line\n")
    return folder


def no_code(folder: Path) -> Path:
    """An import path as if nothing were installed."""
    folder.mkdir()
    (folder / "orchestrator.py").write_text("raise ModuleNotFoundError(\"No module named 'orchestrator'\")\n")
    return folder


@contextmanager
def unlike_nodes(folder: Path, nodes: Mapping[str, Unlike]) -> Iterator[str]:
    """The address of a cluster of a head without CPUs and `nodes` by host name, for the length of the block."""
    if subprocess.run(["unshare", "-m", "-u", "true"], capture_output=True, check=False).returncode:
        pytest.skip("name spaces are not allowed here")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ExitStack() as stack:
        address = stack.enter_context(started_head(folder, port))
        for name, node in nodes.items():
            join_later(stack, folder, address, name, node)
        for name in nodes:
            _wait(lambda log=folder / f"{name}.txt": "Ray runtime started" in log.read_text(), folder / f"{name}.txt")
        yield address


@contextmanager
def started_head(folder: Path, port: int, *words: str, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """The address of a head without CPUs, for the length of the block; it leaves nothing behind."""
    folder.mkdir(exist_ok=True)
    head = ("--head", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=0", f"--temp-dir={folder / 'r'}")
    with _running([*_START, *head, *_SMALL, *words], environment or {}, folder / "head.txt"):
        _wait(lambda: "Ray runtime started" in (folder / "head.txt").read_text(), folder / "head.txt")
        yield f"127.0.0.1:{port}"


def join_later(stack: ExitStack, folder: Path, address: str, name: str, node: Unlike) -> None:
    """Starts one more node, which lives as long as `stack`."""
    # Ray's own files too: nodes that start at once in one folder disturb each other.
    mounts = "".join(f"mount -t tmpfs none {path} && " for path in (folder / "r", *node.hidden))
    words = [*_START, f"--address={address}", "--node-ip-address=127.0.0.1", f"--num-cpus={node.cpus}", _SMALL[0]]
    inside = ["unshare", "-m", "-u", "sh", "-c", f'hostname {name} && {mounts}exec "$@"', "sh", *words]
    environment = {"PYTHONPATH": str(node.path)} if node.path else {}
    stack.enter_context(_running(inside, environment, folder / f"{name}.txt"))


@contextmanager
def _running(words: list[str], environment: Mapping[str, str], log: Path) -> Iterator[None]:
    with log.open("w") as file:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd="/",
            env={**child_environment(), **OPEN, **environment},
            start_new_session=True,
        )
    try:
        yield
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        for one in (*family, process):
            try:
                one.kill()
            except psutil.Error:
                continue
        process.wait()


def _wait(ready, log: Path) -> None:
    give_up = time.monotonic() + UP_S
    while not ready():
        assert time.monotonic() < give_up, log.read_text()[-2000:]
        time.sleep(0.1)
