"""Machines of a laboratory on this one: a head and nodes on a switch, each with a network, a name, mounts and a /tmp.

All are name spaces (Linux, with the rights to make them) that end with their processes. Nothing is named outside them,
and no packet leaves them, so laboratories side by side do not meet. What the machines share lies in the test's own
folders; a node may see those otherwise (`hidden`, `read_only`, `full`).
"""

import os
import random
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from oracle import CHECKOUT, FOLDER, Place, child_environment, wait_for

UP_S = 240.0
PORT = 6379
START = (sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats")
# Memory enough that Ray never refuses a member for it: whether a node has it is for the look at it.
SMALL = ("--object-store-memory=80000000", "--memory=100000000000", "--include-dashboard=false")
_SPACES = ("unshare", "--net", "--mount", "--uts")
# A node's processes end with the first of them, all at once. A driver needs to see those of the head.
_APART = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
# /mnt becomes the machine's /tmp, with those folders of the old one that it shares: they have to be bound before.
_SET_UP = """
set -e
hostname "$1"; shift
ip link set lo up
mount -t tmpfs none /mnt
for folder in "$@"; do mkdir -p "/mnt${folder#/tmp}"; mount --rbind "$folder" "/mnt${folder#/tmp}"; done
mount --move /mnt /tmp
chmod 1777 /tmp
echo ready
exec sleep infinity
"""


@dataclass(frozen=True)
class Kind:
    """What a node has else than the driver: an import path, or steps (shell) that change what it sees."""

    path: Path | None = None
    steps: tuple[str, ...] = ()
    cpus: int = 1
    environment: dict[str, str] = field(default_factory=dict)


@dataclass
class Machine:
    """`holder` keeps the name spaces; `ray` is a node's first process, or the head's."""

    name: str
    ip: str
    holder: "subprocess.Popen[str]"
    ray: "subprocess.Popen[bytes] | None" = None

    def inside(self, *words: str, cwd: Path = Path("/")) -> list[str]:
        """The command `words` as it runs on this machine."""
        spaces = ("nsenter", "--target", str(self.holder.pid), "--net", "--mount", "--uts")
        return [*spaces, "env", "-C", str(cwd), *words]

    def family(self) -> list[psutil.Process]:
        """Ray's processes here, its workers too."""
        return psutil.Process(self.ray.pid).children(recursive=True) if self.ray and self.ray.poll() is None else []

    def kill_ray(self) -> None:
        """All of Ray at once, without a word to anybody."""
        if self.ray is not None:
            kill_family(self.ray)
            self.ray = None


class Lab:
    """The machines by name, and orders to them. Ray's files are on their own disks."""

    def __init__(self, folder: Path, shared: Sequence[Path]) -> None:
        self.folder, self.machines = folder, dict[str, Machine]()
        self.log_number = 0
        self._net = f"10.231.{random.randrange(256)}"
        every = (*shared, CHECKOUT, Path(sys.prefix), *map(Path, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
        self._shared = sorted({str(path) for path in every if path.is_relative_to("/tmp")}, key=len)
        self._orders: subprocess.Popen[str] | None = None
        self.token = folder / "token"
        self.token.write_text(secrets.token_hex(32))
        self._switch = _hold(
            [
                *_SPACES[:2],
                "sh",
                "-c",
                "ip link add sw type bridge && ip link set sw up && echo ready && exec sleep infinity",
            ]
        )

    @property
    def address(self) -> str:
        return f"{self._net}.1:{PORT}"

    @property
    def environment(self) -> dict[str, str]:
        """What every process of Ray and of Septet gets."""
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token), "RAY_USAGE_STATS_ENABLED": "0"}
        # The driver's import path must not reach the nodes. The tests' own value of the last one is for a local Ray.
        return {**own, "PYTHONSAFEPATH": "1", "TMPDIR": "/tmp", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}

    def machine(self, name: str) -> Machine:
        """A machine on the switch, without Ray; the first one is the head."""
        number = len(self.machines) + 1
        holder = _hold([*_SPACES, "sh", "-c", _SET_UP, "sh", name, *self._shared])
        made = self.machines[name] = Machine(name, f"{self._net}.{number}", holder)
        port = self._port(made)
        self._on_switch("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
        self._on_switch("ip", "link", "set", port, "master", "sw", "up")
        for words in (("addr", "add", f"{made.ip}/24", "dev", "eth0"), ("link", "set", "eth0", "up")):
            subprocess.run(made.inside("ip", *words), check=True)
        return made

    def start_head(self) -> None:
        """Starts Ray's head, without CPUs, on the first machine; again after `stop_head`."""
        head = self.machines.get("head") or self.machine("head")
        # Ray's note of the head before it, and the nodes' processes, which it sees here, would let no other one start.
        forget = ("sh", "-c", 'rm -f /tmp/ray/ray_current_cluster && exec "$@"', "sh")
        words = ("--head", f"--node-ip-address={head.ip}", f"--port={PORT}", "--num-cpus=0")
        self._head_log = self._start_ray(head, [*forget, *START, *words, *SMALL], Kind())

    def stop_head(self) -> None:
        """Kills the head's processes; the nodes' live on."""
        self.machines["head"].kill_ray()
        if self._orders:
            kill_family(self._orders)
            self._orders = None

    def join(self, **kinds: Kind) -> None:
        """Starts Ray on nodes of these names, and returns when the head knows them."""
        for name, kind in kinds.items():
            self.join_soon(name, kind)
        wait_for(lambda: kinds.keys() <= self.alive(), self.logs, UP_S)

    def join_soon(self, name: str, kind: Kind) -> None:
        """Starts Ray on a node of this name, and does not wait."""
        found = self.machines.get(name) or self.machine(name)
        words = [*START, f"--address={self.address}", f"--node-ip-address={found.ip}", f"--num-cpus={kind.cpus}"]
        steps = "".join(f"{step} && " for step in kind.steps)
        self._start_ray(found, [*_APART, "sh", "-c", f'{steps}exec "$@"', "sh", *words, *SMALL[:2]], kind)

    def kill(self, *names: str) -> None:
        """Ends nodes without a notice, and returns when the head knows."""
        for name in names:
            self.machines[name].kill_ray()
        wait_for(lambda: not self.alive() & {*names}, self.logs, UP_S)

    def partition(self, name: str, *, apart: bool = True) -> None:
        """Pulls the plug of a machine's network, or puts it in again."""
        self._on_switch("ip", "link", "set", self._port(self.machines[name]), "down" if apart else "up")

    def alive(self) -> set[str]:
        """The names of the nodes that the head takes for alive."""
        return set(self.order("alive").split())

    def order(self, line: str) -> str:
        """Gives an order of `lab_orders.py` on the head, and returns the answer."""
        if self._orders is None:
            wait_for(lambda: "Ray runtime started" in self._head_log.read_text(), self.logs, UP_S)
            environment = {**child_environment(), **self.environment, "PYTHONSAFEPATH": ""}
            words = self.machines["head"].inside(sys.executable, str(FOLDER / "lab_orders.py"), self.address)
            with self._log("orders").open("w") as log:
                self._orders = subprocess.Popen(
                    words,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env=environment,
                    start_new_session=True,
                )
        self._orders.stdin.write(f"{line}\n")
        self._orders.stdin.flush()
        for answer in self._orders.stdout:
            if answer.startswith("done "):
                return answer.removeprefix("done ")
        raise AssertionError(f"no answer to {line!r}: {self.logs()}")

    def start(self, place: Place, *words: str, on: str = "head", **environment: str) -> "subprocess.Popen[str]":
        """Starts a launch on a machine, by default the head's."""
        place.environment = {**self.environment, **environment}
        # Inside, so that the launch's own process is the one that is returned.
        before = tuple(self.machines[on].inside(cwd=place.root))
        return place.start(f"cluster.address={self.address}", *words, before=before)

    def logs(self) -> str:
        """The last lines that Ray wrote of each start."""
        return "\n".join(f"{path.name}: {path.read_text()[-600:]}" for path in sorted(self.folder.glob("*.txt")))

    def close(self) -> None:
        for machine in self.machines.values():
            machine.kill_ray()
        for process in filter(None, (self._orders, *(one.holder for one in self.machines.values()), self._switch)):
            kill_family(process)

    def _start_ray(self, machine: Machine, words: list[str], kind: Kind) -> Path:
        own = {"PYTHONPATH": str(kind.path)} if kind.path else {}
        path = self._log(machine.name)
        with path.open("w") as log:
            machine.ray = subprocess.Popen(
                machine.inside(*words),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**child_environment(), **self.environment, **own, **kind.environment},
                start_new_session=True,
            )
        return path

    def _log(self, name: str) -> Path:
        self.log_number += 1
        return self.folder / f"{self.log_number:02}-{name}.txt"

    def _port(self, machine: Machine) -> str:
        return f"port{machine.ip.rpartition('.')[2]}"

    def _on_switch(self, *words: str) -> None:
        subprocess.run(["nsenter", "--target", str(self._switch.pid), "--net", *words], check=True)


@contextmanager
def laboratory(folder: Path, shared: Sequence[Path]) -> Iterator[Lab]:
    """A head on a switch, for the length of the block."""
    if subprocess.run([*_SPACES, "true"], capture_output=True, check=False).returncode or not shutil.which("ip"):
        pytest.skip("network name spaces are not allowed here")
    folder.mkdir(parents=True)
    lab = Lab(folder, shared)
    try:
        lab.start_head()
        yield lab
    finally:
        lab.close()


def pid_there(process: psutil.Process) -> int:
    """The number by which a node's own processes know one of them."""
    with suppress(OSError):
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        return next(int(line.split()[-1]) for line in lines if line.startswith("NSpid:"))
    return 0


def _hold(words: Sequence[str]) -> "subprocess.Popen[str]":
    """Starts a process that says `ready` and then sleeps."""
    holder = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert holder.stdout.readline() == "ready\n", words
    return holder


def kill_family(process: subprocess.Popen) -> None:
    """Kills a process and all that descend from it."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    for one in (*family, process):
        with suppress(psutil.Error, OSError):
            one.kill()
    process.wait()
