"""A Slurm cluster on this machine: each node has a host name, network, mounts and processes of its own.

Needs the rights to make name spaces, and Debian's packages `slurm-wlm` and `munge`, which nobody installs from here.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "ip", "nsenter", "unshare")
UP_S = 60.0
_NAMESPACES = ("unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child")
_CONFIGURATION = """\
ClusterName=septet
SlurmctldHost=control(10.77.0.1)
SlurmUser=root
AuthInfo=socket={folder}/munge,cred_expire=5
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/%n
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
NodeName=n[1-{count}] NodeAddr=10.77.0.[11-{last}] CPUs=1 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES
"""
# The first process of the whole: it ends with its standard input, and all others with it.
_WORLD = """\
set -e
hostname control
mount --bind {folder}/hosts /etc/hosts
ip link set lo up
ip link add nodes type bridge
ip address add 10.77.0.1/24 dev nodes
ip link set nodes up
munged --force --key-file={folder}/key --socket={folder}/munge --pid-file={folder}/munged.pid \\
  --log-file={folder}/munged.log --seed-file={folder}/seed
for number in $(seq {count}); do
  {namespaces} sh {folder}/node.sh $number &
  first=$!
  # The node's own name spaces are those of unshare's child.
  until child=$(pgrep --parent $first) && nsenter --target $child --net true; do sleep 0.1; done
  ip link add v$number type veth peer name eth0 netns $child
  ip link set v$number master nodes up
done
slurmctld
cat
"""
_NODE = """\
set -e
hostname n$1
mount --bind {folder}/hosts /etc/hosts
mount -t tmpfs none /tmp/ray
until ip link show eth0 >/dev/null 2>&1; do sleep 0.1; done
ip link set lo up
ip address add 10.77.0.$((10 + $1))/24 dev eth0
ip link set eth0 up
# A first process that buries the dead: `ray stop` waits for its own.
slurmd -D -N n$1 & wait
"""


@dataclass(frozen=True)
class Slurm:
    """A running cluster; `process` is the first one in its name spaces."""

    folder: Path
    process: int

    def run(self, *words: str, **environment: str) -> str:
        """What one of Slurm's programs writes to stdout."""
        inside = ("nsenter", f"--target={self.process}", "--net", "--mount", "--uts", "--pid", "--")
        given = {**os.environ, **environment, "SLURM_CONF": str(self.folder / "slurm.conf")}
        done = subprocess.run([*inside, *words], env=given, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def job(self, number: str) -> Mapping[str, str]:
        """What Slurm says of a job."""
        words = self.run("scontrol", "show", "job", number, "--oneliner").split()
        return dict(word.split("=", 1) for word in words if "=" in word)


@contextmanager
def slurm_cluster(folder: Path, count: int) -> Iterator[Slurm]:
    """A cluster of nodes n1 … with one CPU each, for the length of the block; `folder` takes its files."""
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (Debian: slurm-wlm, munge)")
    if subprocess.run([*_NAMESPACES, "true"], capture_output=True, check=False).returncode:
        pytest.skip("name spaces are not allowed here")
    words = {"folder": folder, "count": count, "last": 10 + count, "namespaces": " ".join(_NAMESPACES)}
    (folder / "slurm.conf").write_text(_CONFIGURATION.format(**words))
    (folder / "world.sh").write_text(_WORLD.format(**words))
    (folder / "node.sh").write_text(_NODE.format(**words))
    names = "".join(f"10.77.0.{10 + number} n{number}\n" for number in range(1, count + 1))
    (folder / "hosts").write_text(f"127.0.0.1 localhost\n10.77.0.1 control\n{names}")
    (folder / "key").write_bytes(os.urandom(128))
    (folder / "key").chmod(0o400)
    # Ray's own folder, which each node hides behind one of its own.
    Path("/tmp/ray").mkdir(mode=0o777, exist_ok=True)
    with (folder / "world.log").open("w") as log:
        world = subprocess.Popen(
            [*_NAMESPACES, "sh", folder / "world.sh"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**os.environ, "SLURM_CONF": str(folder / "slurm.conf")},
        )
    try:
        await_that(lambda: (folder / "slurmctld.pid").exists(), UP_S, folder / "world.log")
        (first,) = Path(f"/proc/{world.pid}/task/{world.pid}/children").read_text().split()
        slurm = Slurm(folder, int(first))
        idle = " ".join(f"n{number}:idle" for number in range(1, count + 1))
        listing = ("sinfo", "--Node", "--noheader", "--format=%N:%t")
        await_that(lambda: " ".join(sorted(slurm.run(*listing).split())) == idle, UP_S, folder / "n1.log")
        yield slurm
    finally:
        world.send_signal(signal.SIGKILL)
        world.wait()


def await_that(true: Callable[[], bool], give_up_s: float, log: Path) -> None:
    """Waits until something is so, and fails with the end of `log` if it never is."""
    give_up = time.monotonic() + give_up_s
    while not true():
        assert time.monotonic() < give_up, log.read_text()[-3000:] if log.exists() else f"no {log}"
        time.sleep(0.2)
