"""The cluster of `ray_of_nodes.py`, for tests that give it orders."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from oracle import FOLDER, child_environment


@dataclass
class Nodes:
    """The cluster's process, and whatever it has started by the time that its nodes are there."""

    process: "subprocess.Popen[str]"
    address: str
    family: list[psutil.Process]

    def order(self, line: str) -> None:
        """Returns when it is done; Ray may print lines of its own before."""
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        said = []
        for answer in self.process.stdout:
            if answer == "done\n":
                return
            said.append(answer)
        raise AssertionError(f"the cluster's process ended at {line!r}: {said}")

    def kill(self) -> None:
        """The head and all nodes, at once."""
        for process in self.family:
            with suppress(psutil.Error):
                process.kill()
        self.process.kill()
        self.process.wait()
        # A test that adopts orphans has to bury them too: an idle worker ends once its node's process is gone, and a
        # zombie is not gone.
        for process in self.family:
            with suppress(ChildProcessError):
                os.waitpid(process.pid, 0)


@contextmanager
def ray_of_nodes(num_nodes: int, log: Path, environment: Mapping[str, str], *folder: str) -> Iterator[Nodes]:
    """The cluster for the length of the block; `folder` takes Ray's files."""
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, str(FOLDER / "ray_of_nodes.py"), str(num_nodes), *folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env={**child_environment(), **environment},
            start_new_session=True,
        )
    address = next(line.strip() for line in process.stdout if ":" in line and " " not in line.strip())
    nodes = Nodes(process, address, psutil.Process(process.pid).children(recursive=True))
    try:
        yield nodes
        with suppress(BrokenPipeError):
            process.communicate("", timeout=240)
    finally:
        nodes.kill()
