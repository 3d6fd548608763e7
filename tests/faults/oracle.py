"""The oracle of the fault suite: a launch as a user runs it, in a process, and what must hold after any fault.

After a fault: the exit code and the one line on stderr are right (`expect_line`); the submission is absent, old or new,
each of them whole (`submission_state`); nothing of the launch lives (`Family`) and nobody holds the run directory.
After the next good launch (`expect_recovered`): submission, predictions and final weights have the undisturbed run's
sha256, and nothing temporary is left. That the injection happened is for each test to count.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from run_artefacts import artefacts

from orchestrator.run.holder import is_locked
from orchestrator.run.paths import RunPaths

FOLDER = Path(__file__).parent
SCRIPT = FOLDER / "septet_held.py"
CHECKOUT = FOLDER.parents[1]
GIVE_UP_S = 300.0
# A killed driver's guard and Ray's own watchdogs take a moment; what lives longer is an orphan.
GONE_S = 60.0
PAUSE_S = 0.02
# A small run of two members, one of them pre-trained: three stages and every kind of artefact.
SMALL = (
    *("ensemble=two", "checkpoint_updates=4", "cluster.cpus_per_member=1", "precision=fp32"),
    *("optimizer.batch_size=400", "model.width=0.05", "model.fc_units=16", "ensemble.stages.train.epochs=5"),
    *("ensemble.stages.pretrain.epochs=1", "ensemble.stages.finetune.epochs=4"),
)
GROUP = """
members:
  plain: {stages: {train: {dataset: target}}}
  chained:
    model: {num_convs: 6}
    stages:
      pretrain: {dataset: superset}
      finetune: {dataset: target, init_from: pretrain, reset: [fc8]}
"""
_PR_SET_CHILD_SUBREAPER = 36
Process = subprocess.Popen[str]


def child_environment() -> dict[str, str]:
    """What a test's own processes get: this checkout's packages, not an installation's, and one thread."""
    shared = str(CHECKOUT / "tests" / "shared")
    path = os.pathsep.join(filter(None, (str(CHECKOUT), shared, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


@dataclass(frozen=True)
class Ended:
    """How a launch came to its end; a negative code is the signal that killed it."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The last line on stderr, where the command line says why."""
        lines = self.err.strip().splitlines()
        return lines[-1] if lines else ""


@dataclass
class Place:
    """One run's own folder: run directory, tracking database and TMPDIR; the store may be shared.

    `in_process` puts threads in Ray's place. `environment` is added to the launch's. `run_dir` None is below `root`.
    """

    root: Path
    store: Path
    overrides: tuple[str, ...] = SMALL
    in_process: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    run_dir: Path | None = None

    def __post_init__(self) -> None:
        (self.root / "groups" / "ensemble").mkdir(parents=True, exist_ok=True)
        (self.root / "groups" / "ensemble" / "two.yaml").write_text(GROUP)
        # Of its own, so that whatever is left in it is this run's; short, since Ray's sockets lie below it.
        self.temporary = Path(tempfile.mkdtemp(prefix="sf-", dir="/tmp"))
        self.marker = self.root / "the moment has come"
        self._outputs: dict[int, Path] = {}

    @property
    def paths(self) -> RunPaths:
        return RunPaths(self.run_dir or self.root / "run")

    def command(self, *words: str, moment: str = "") -> list[str]:
        """`septet launch` with `words`; held at a moment of `septet_held.py`, if one is named."""
        held = moment or ("never" if self.in_process else "")
        program = [str(SCRIPT), held, str(self.marker)] if held else ["-m", "orchestrator.cli.program"]
        here = (f"run_dir={self.paths.root}", f"datasets.store={self.store}")
        tracking = f"tracking.uri=sqlite:///{self.root / 'mlflow.db'}"
        # Before what a test adds: the last word about a key counts.
        own = (f"--config-dir={self.root / 'groups'}", *self.overrides, *here, tracking)
        return [sys.executable, *program, "launch", *own, *words]

    def start(self, *words: str, moment: str = "", before: tuple[str, ...] = (), **popen: Any) -> "Process":
        """Starts the launch and waits for its moment, if one is named; `before` are words before the command's.

        Its output is in files beside the run: nothing blocks on a pipe that nobody reads.
        """
        if moment:
            self.marker.unlink(missing_ok=True)
        environment = {**child_environment(), "TMPDIR": str(self.temporary), **self.environment}
        output = self.root / f"output-{len(self._outputs)}"
        command = [*before, *self.command(*words, moment=moment)]
        with output.with_suffix(".out").open("w") as out, output.with_suffix(".err").open("w") as err:
            given = {"stdout": out, "stderr": err, "preexec_fn": hear_all_signals, **popen}
            process = subprocess.Popen(command, cwd=self.root, text=True, env=environment, **given)
        self._outputs[process.pid] = output
        if moment:
            wait_for(lambda: self.marker.exists() or process.poll() is not None)
            assert process.poll() is None, f"over before its moment: {output.with_suffix('.err').read_text()}"
        return process

    def let_go(self) -> None:
        """Lets a held launch continue."""
        self.marker.unlink()

    def said(self, process: "Process") -> str:
        """What a launch has written to stderr so far."""
        return self._outputs[process.pid].with_suffix(".err").read_text()

    def ended(self, process: "Process", give_up_s: float = GIVE_UP_S) -> Ended:
        """Waits for the end of what `start` began."""
        code, output = process.wait(give_up_s), self._outputs[process.pid]
        return Ended(code, output.with_suffix(".out").read_text(), self.said(process))

    def launch(self, *words: str, give_up_s: float = GIVE_UP_S) -> Ended:
        """Launches and waits."""
        return self.ended(self.start(*words), give_up_s)

    def launch_until(self, due: Callable[[], bool], act: Callable[["Process"], object]) -> Ended:
        """Launches, acts once `due`, and waits; fails if the launch is over first."""
        process = self.start()
        wait_for(lambda: due() or process.poll() is not None)
        assert process.poll() is None, f"over before the fault was due: {self.ended(process)}"
        act(process)
        return self.ended(process)

    def leftovers(self) -> list[Path]:
        """What a finished run must not leave: temporary names in run and store, anything in TMPDIR."""
        kinds = (".tmp-*", ".building-*")
        found = [path for top in (self.paths.root, self.store) for kind in kinds for path in top.rglob(kind)]
        return [*found, *self.left_in_temporary()]

    def left_in_temporary(self) -> list[Path]:
        """What lies in TMPDIR but for the cache that torch keeps there for all its processes."""
        return [path for path in self.temporary.iterdir() if not path.name.startswith("torchinductor_")]

    def running_in_mlflow(self) -> list[str]:
        """The runs that seem to be at work still."""
        database = self.root / "mlflow.db"
        if not database.exists():
            return []
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=60)) as connection:
            try:
                sql = "select run_uuid from runs where status not in ('FINISHED', 'KILLED', 'FAILED')"
                return [run for (run,) in connection.execute(sql)]
            except sqlite3.OperationalError:
                return []

    def close(self) -> None:
        shutil.rmtree(self.temporary, ignore_errors=True)


def hear_all_signals() -> None:
    """In a child, before it becomes another program: whoever started the tests may ignore some, and so would it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Family:
    """All processes that this one started, orphans too: while entered they become its children (a subreaper's)."""

    def __enter__(self) -> "Family":
        self._before = set(psutil.Process().children(recursive=True))
        _adopt_orphans(True)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.living():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.living()
        _adopt_orphans(False)

    def living(self) -> list[psutil.Process]:
        """Those that live now; the dead among the adopted are reaped."""
        found = []
        for process in psutil.Process().children(recursive=True):
            if process in self._before:
                continue
            with contextlib.suppress(psutil.Error):
                if process.status() == psutil.STATUS_ZOMBIE:
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(process.pid, os.WNOHANG)
                elif "resource_tracker" not in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def expect_none(self) -> None:
        """Nothing lives, within a minute."""
        give_up = time.monotonic() + GONE_S
        while living := self.living():
            shown = []
            for process in living:
                # One may end, and be a zombie, between two looks.
                with contextlib.suppress(psutil.Error):
                    shown.append(f"{process.pid} {' '.join(process.cmdline())[:100]}")
            assert time.monotonic() < give_up, f"orphans: {shown}"
            time.sleep(PAUSE_S)


def _adopt_orphans(adopt: bool) -> None:
    done = ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0)
    assert done == 0, os.strerror(ctypes.get_errno())


Files = Mapping[str, bytes]


def submission_state(found: Files, old: Files, new: Files) -> str:
    """What a reader finds in RUN_DIR/submission: `absent`, `old` or `new`, each whole; fails on anything else."""
    if not found:
        return "absent"
    if found == old:
        return "old"
    same = {
        name: next((kind for kind, by in (("old", old), ("new", new)) if by.get(name) == data), "neither")
        for name, data in found.items()
    }
    assert found == new, f"a mix: {same}, of old {sorted(old)} and new {sorted(new)}"
    return "new"


def expect_line(ended: Ended, code: int, *words: str) -> None:
    """The exit code, and one line on stderr that holds `words` and no traceback."""
    assert ended.code == code, (ended.code, ended.err)
    told = [line for line in ended.err.splitlines() if line.startswith("septet: ")]
    assert len(told) == 1 and told[0] == ended.line, ended.err
    assert "Traceback" not in ended.err, ended.err
    for word in words:
        assert word in ended.line, (word, ended.line)


def expect_clean_end(place: Place, family: Family) -> None:
    """After any end of a launch: no process of it lives, nobody holds the run, no folder of Ray's is left."""
    family.expect_none()
    assert not is_locked(place.paths)
    wait_for(lambda: not place.left_in_temporary(), lambda: f"left in TMPDIR: {place.left_in_temporary()}", GONE_S)


def expect_end_in_order(place: Place, family: Family) -> None:
    """After a launch that ended by itself: nothing at all of what `expect_clean_end` allows a killed one to leave."""
    expect_clean_end(place, family)
    assert not list(place.paths.root.rglob(".tmp-*"))
    assert not place.paths.stop_request.exists()
    assert place.running_in_mlflow() == []


def expect_recovered(place: Place, undisturbed: Place, family: Family, give_up_s: float = GIVE_UP_S) -> None:
    """The same command again: exit 0, the undisturbed run's bytes, and nothing left over."""
    ended = place.launch(give_up_s=give_up_s)
    assert ended.code == 0, ended.err
    expect_end_in_order(place, family)
    assert artefacts(place.paths) == artefacts(undisturbed.paths)
    assert place.leftovers() == []


def wait_for(
    holds: Callable[[], bool], says: Callable[[], str] = lambda: "waited in vain", give_up_s: float = GIVE_UP_S
) -> None:
    """Polls until `holds`, with a deadline."""
    give_up = time.monotonic() + give_up_s
    while not holds():
        assert time.monotonic() < give_up, says()
        time.sleep(PAUSE_S)


def say(line: str) -> None:
    """Prints `line` at once: a soak takes long, and what it measures is worth reading."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def fill_disk(ballast: Path) -> None:
    """Leaves not a block free on the disk of `ballast`, and proves it."""
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert shutil.disk_usage(ballast.parent).free == 0


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own in `folder`, for the length of the block."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "septet-test", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def placed(root: Path, store: Path, *, in_process: bool = False) -> Iterator[Place]:
    """A `Place` whose TMPDIR goes with the block."""
    root.mkdir(parents=True, exist_ok=True)
    place = Place(root, store, in_process=in_process)
    try:
        yield place
    finally:
        place.close()
