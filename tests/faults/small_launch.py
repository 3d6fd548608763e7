"""A small launch on the embedded digits, and all that a launch which was interrupted may not leave behind."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from orchestrator.run.holder import is_locked
from orchestrator.run.paths import RunPaths

SCRIPT = Path(__file__).with_name("launch_held.py")
GIVE_UP_S = 240.0
_MARK = "SEPTET_TEST_LAUNCH"
GROUP = "members:\n  one: {stages: {train: {dataset: target}}}\n  two: {stages: {train: {dataset: target}}}\n"
SMALL = (
    *("ensemble=two", "checkpoint_updates=4", "precision=fp32", "optimizer.batch_size=400"),
    *("model.width=0.1", "model.fc_units=32", "ensemble.stages.train.epochs=3"),
)


@dataclass
class Launches:
    """One run directory, with its tracking database, below `root`; the store may be shared."""

    root: Path
    store: Path
    small: tuple[str, ...] = SMALL
    marker: Path = field(init=False)
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        (self.root / "groups" / "ensemble").mkdir(parents=True)
        (self.root / "groups" / "ensemble" / "two.yaml").write_text(GROUP)
        self.marker = self.root / "the moment has come"

    @property
    def paths(self) -> RunPaths:
        return RunPaths(self.root / "run")

    def command(self, moment: str, *words: str) -> list[str]:
        fixed = [
            f"run_dir={self.paths.root}",
            f"datasets.store={self.store}",
            "--config-dir",
            str(self.root / "groups"),
        ]
        # Threads are settled at once unless they are to be measured.
        settled = [] if moment == "measuring" else ["cluster.cpus_per_member=1"]
        return [sys.executable, str(SCRIPT), moment, str(self.marker), "launch", *fixed, *settled, *self.small, *words]

    @property
    def environment(self) -> dict[str, str]:
        uri = f"sqlite:///{self.root / 'mlflow.db'}"
        return {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": uri, _MARK: self.mark}

    def start(self, moment: str, *words: str) -> "subprocess.Popen[str]":
        """Starts a launch and waits for the moment."""
        self.marker.unlink(missing_ok=True)
        process = subprocess.Popen(
            self.command(moment, *words),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.root,
            preexec_fn=hear_all_signals,
        )
        wait_for(self.marker.exists, process)
        return process

    def finish(self, *words: str) -> None:
        """Launches undisturbed, to the end."""
        done = subprocess.run(
            self.command("never", *words),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=GIVE_UP_S,
            check=False,
            cwd=self.root,
        )
        assert done.returncode == 0, f"exit {done.returncode}: {done.stdout}{done.stderr}"

    def left_behind(self) -> list[str]:
        """What no launch that has ended may leave: processes, a lock, temporary names, runs that seem to go on."""
        found = [f"process {process.pid}: {' '.join(process.cmdline())[:80]}" for process in self._living()]
        if is_locked(self.paths):
            found.append("the lock")
        if self.paths.root.exists():
            found += [str(path) for path in self.paths.root.rglob(".tmp-*")]
            found += ["a request to stop"] if self.paths.stop_request.exists() else []
        return [*found, *(f"MLflow run {run}" for run in self._running())]

    def _living(self) -> list[psutil.Process]:
        """Processes that any launch from here has started, whoever their parent is by now."""
        living = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(_MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    living.append(process)
            except psutil.Error:
                continue
        return [process for process in living if process.pid != os.getpid()]

    def _running(self) -> list[str]:
        database = self.root / "mlflow.db"
        if not database.exists():
            return []
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)) as connection:
            try:
                sql = "select run_uuid from runs where status not in ('FINISHED', 'KILLED', 'FAILED')"
                return [run for (run,) in connection.execute(sql)]
            except sqlite3.OperationalError:
                return []


def hear_all_signals() -> None:
    """In a child, before it becomes another program: whoever started the tests may ignore some, and so would it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def wait_for(holds: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    """Polls until it holds; the process must live."""
    give_up = time.monotonic() + GIVE_UP_S
    while not holds():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < give_up
        time.sleep(0.02)
