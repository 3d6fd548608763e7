"""Runs commands as a person would and times them: several plain scripts at once, and `septet launch`."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

Command = Sequence[str]
_HERE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Placement:
    """How the plain scripts share the machine: processes at once, each with its threads and loader processes."""

    at_once: int
    threads: int
    workers: int

    def __str__(self) -> str:
        return f"{self.at_once} at once, {self.threads} threads, {self.workers} loader processes"


@dataclass(frozen=True)
class Launched:
    """A finished `septet launch`: its run directory, and its begin and end in unix seconds."""

    run_dir: Path
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began


def call(command: Command, log: Path, checkout: Path = _HERE) -> None:
    """Runs a command with a checkout's code and writes its output to `log`; a failure shows the last lines."""
    with log.open("wb") as file:
        code = subprocess.run(
            list(command), stdout=file, stderr=subprocess.STDOUT, cwd=log.parent, env=environment(checkout)
        ).returncode
    if code:
        tail = log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{' '.join(command)} ended with {code}:\n{tail}")


def environment(checkout: Path = _HERE) -> dict[str, str]:
    """Returns an environment in which a checkout can be imported from any folder, with no tracking store set."""
    inherited = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    return {**inherited, "PYTHONPATH": str(checkout)}


def plain(root: Path, *arguments: str) -> Command:
    """Returns the command that trains one member with the plain script."""
    return (sys.executable, "-m", "benchmarks.peers.plain_pytorch", str(root), *arguments)


def run_all(commands: Sequence[Command], placement: Placement, folder: Path) -> float:
    """Runs the plain scripts in the given order and returns the seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    options = ("--threads", str(placement.threads), "--workers", str(placement.workers))
    since = time.perf_counter()
    with ThreadPoolExecutor(placement.at_once) as pool:
        logs = [folder / f"script-{number}.log" for number in range(len(commands))]
        for _ in pool.map(call, [(*command, *options) for command in commands], logs):
            pass
    return time.perf_counter() - since


def fastest_placement(tried: Mapping[str, Callable[[], float]], show: Callable[[str], None]) -> str:
    """Returns the name of the fastest of several trials."""
    seconds = {name: trial() for name, trial in tried.items()}
    show("; ".join(f"{name}: {took:.1f} s" for name, took in seconds.items()))
    return min(seconds, key=lambda name: seconds[name])


def first_members(count: int) -> list[str]:
    """Returns overrides that leave the first `count` of five members."""
    return [f"~ensemble.members.base{number}" for number in range(count + 1, 6)]


def launch(folder: Path, *overrides: str, checkout: Path = _HERE) -> Launched:
    """Runs `septet launch` in an empty folder: nothing is prepared, and tracking goes to a file there."""
    folder.mkdir(parents=True)
    run_dir = folder / "run"
    septet = str(Path(sys.executable).with_name("septet"))
    began = time.time()
    words = [septet, "launch", *overrides, f"run_dir={run_dir}", f"datasets.store={folder / 'store'}"]
    call(words, folder / "log.txt", checkout)
    return Launched(run_dir, began, time.time())
