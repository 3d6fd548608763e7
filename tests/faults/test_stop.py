"""`septet stop`: it stops the launch it was meant for, says what came of it, and holds no lock."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import ask

from orchestrator.execution import stop
from orchestrator.execution.signals import Interrupts
from orchestrator.execution.stop import obeying
from orchestrator.run.holder import Holder, is_locked, lock
from orchestrator.run.ledger import Ledger, State
from orchestrator.run.paths import RunPaths

# What a launch holds its run directory with.
_LAUNCH = """
import sys, time
from pathlib import Path
from orchestrator.execution.signals import Interrupts
from orchestrator.run.holder import lock
from orchestrator.run.paths import RunPaths
from orchestrator.execution.stop import obeying
from workers.errors import SeptetError
paths = RunPaths(Path(sys.argv[1]))
try:
    with Interrupts() as interrupts, lock(paths, obeys=sys.argv[2] == "launch") as holder:
        with obeying(paths, holder, interrupts):
            with interrupts.deferred():
                sys.stdout.write("ready\\n")
                sys.stdout.flush()
                for _ in range(12_000):
                    if interrupts.requested:
                        break
                    time.sleep(0.01)
            if sys.argv[2] == "launch":
                raise interrupts.error()
except SeptetError as error:
    sys.stdout.write(f"{error}\\n")
    sys.exit(error.exit_code)
"""
LOOK_S = 0.01


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop, "_LOOK_EVERY_S", LOOK_S)


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    """A run directory of which a launch has said that it was stopped."""
    paths = RunPaths(tmp_path / "run")
    paths.root.mkdir()
    paths.run_json.write_text("{}")
    Ledger(paths.ledger).set_state(State.stopped)
    return paths


@contextmanager
def _started(paths: RunPaths, kind: str = "launch") -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-c", _LAUNCH, str(paths.root), kind], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_stop_ends_the_launch_as_sigterm_does(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    with _started(paths) as process:
        answer = ask(capsys, "stop", paths.root, "--timeout", "60")
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "`septet stop` asked for it" in out
    assert answer.code == 0 and f"process {process.pid} on" in answer.out and "has stopped" in answer.out
    assert not paths.stop_request.exists()
    assert not is_locked(paths)


@pytest.mark.parametrize("prepares", [True, False])
def test_stop_tells_how_its_own_launch_ended(
    paths: RunPaths, capsys: pytest.CaptureFixture[str], prepares: bool
) -> None:
    """The ledger says that an earlier launch failed; this one had opened it, or still prepared its data."""
    Ledger(paths.ledger).set_state(State.failed)
    with _started(paths):
        if not prepares:
            Ledger(paths.ledger).set_state(State.stopped)
        said = ask(capsys, "stop", paths.root, "--timeout", "60").out
    assert ("before it resumed" in said) is prepares
    assert ("after saving checkpoints" in said) is not prepares
    assert "failed" not in said


def test_stop_where_nothing_runs_changes_nothing(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(paths.root.rglob("*"))
    nobody, nowhere = (ask(capsys, "stop", root) for root in (paths.root, paths.root / "nowhere"))
    assert nobody.code == 0 and "nothing to stop" in nobody.out
    assert nowhere.code == 3 and "no run directory" in nowhere.line
    assert sorted(paths.root.rglob("*")) == before


def test_stop_of_what_is_no_launch_names_its_holder(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    with _started(paths, "submit") as process:
        answer = ask(capsys, "stop", paths.root)
        assert answer.code == 5 and f"process {process.pid}" in answer.line
        assert not paths.stop_request.exists()


def test_stop_that_gives_up_leaves_the_request(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    # Held by this very process, which does not look.
    with lock(paths, obeys=True) as holder:
        late = ask(capsys, "stop", paths.root, "--timeout", "0.05")
        assert late.code == 5 and "has not stopped within 0.05 s" in late.line
        assert paths.stop_request.read_text() == holder.token
        asked = ask(capsys, "stop", paths.root, "--timeout", "0")
        assert asked.code == 0 and "was asked" in asked.out


class Asked(Interrupts):
    """Notes that it was asked, in place of a signal to the process of the tests."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = threading.Event()

    def ask(self) -> None:
        self.heard.set()


@pytest.mark.parametrize("token", ["that of an earlier launch", "own"])
def test_request_stops_only_the_launch_it_names(paths: RunPaths, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    looks, interrupts = threading.Semaphore(0), Asked()
    plain = stop._requested

    def requested(of: RunPaths) -> str | None:
        looks.release()
        return plain(of)

    monkeypatch.setattr(stop, "_requested", requested)
    paths.stop_request.write_text(token)
    with obeying(paths, Holder(1, "host", "own", obeys=True), interrupts):
        for _ in range(1 if token == "own" else 5):
            assert looks.acquire(timeout=60)
        if token == "own":
            assert interrupts.heard.wait(60)
    assert interrupts.heard.is_set() is (token == "own")
    assert not paths.stop_request.exists(), "the next launch would find it"
