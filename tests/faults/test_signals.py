"""A signal at every moment of a launch: its exit code, one line, nothing left behind, and the same bytes in the end."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from launch_held import MOMENTS, UNPROTECTED
from redone import redone_updates
from run_artefacts import artefacts
from small_launch import GIVE_UP_S, Launches, hear_all_signals, wait_for

from orchestrator.run.ledger import StageState, read_ledger

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
# All in the soak; the quick part also closes a terminal while members train, and tests/e2e has a Ctrl-C then.
QUICK = {("tracking", signal.SIGTERM)}
CASES = [
    pytest.param(moment, number, marks=() if (moment, number) in QUICK else pytest.mark.soak)
    for moment in (*MOMENTS, "ray")
    for number in CODES
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Launches:
    root = tmp_path_factory.mktemp("undisturbed")
    launches = Launches(root / "a", root / "store")
    launches.finish()
    assert len(artefacts(launches.paths)) == 2 + 2 * 3 + 2
    assert launches.left_behind() == []
    return launches


@pytest.fixture
def launches(undisturbed: Launches, tmp_path: Path) -> Iterator[Launches]:
    one = Launches(tmp_path / "b", undisturbed.store)
    yield one
    for process in one._living():
        process.kill()


@pytest.mark.parametrize(("moment", "number"), CASES)
def test_signal_at_any_moment_stops_in_order_and_the_next_launch_comes_to_the_same_bytes(
    undisturbed: Launches, launches: Launches, moment: str, number: signal.Signals
) -> None:
    process = launches.start(moment)
    process.send_signal(number)
    out, err = process.communicate(timeout=GIVE_UP_S)
    assert (process.returncode, out) == (CODES[number], ""), err
    assert err.splitlines()[-1].startswith("septet: stopped as asked"), err
    assert "Traceback" not in err
    assert launches.left_behind() == []
    assert not list(launches.paths.submission.glob("submission.*"))
    launches.finish()
    assert artefacts(launches.paths) == artefacts(undisturbed.paths)
    if moment == "training":
        # Each attempt went on from where the signal had found it.
        assert sum(redone_updates(entry) for entry in read_ledger(launches.paths.ledger).stages.values()) == 0
    assert launches.left_behind() == []


@pytest.mark.soak
def test_second_ctrl_c_ends_at_once_and_leaves_no_process_and_no_lock(
    undisturbed: Launches, launches: Launches
) -> None:
    process = launches.start("submission")
    process.send_signal(signal.SIGSTOP)
    # Both are there when it goes on: the second finds the first one's clean-up at its very beginning.
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=GIVE_UP_S)
    assert process.returncode in (130, 143)
    assert [left for left in launches.left_behind() if "MLflow" not in left and ".tmp-" not in left] == []
    launches.finish()
    assert artefacts(launches.paths) == artefacts(undisturbed.paths)
    assert launches.left_behind() == []


@pytest.mark.soak
def test_stop_verb_ends_a_real_launch_with_its_members_at_their_checkpoints(
    undisturbed: Launches, launches: Launches
) -> None:
    process = launches.start("training")
    words = [sys.executable, "-m", "orchestrator.cli.program", "stop", str(launches.paths.root)]
    asked = subprocess.run(words, capture_output=True, text=True, timeout=GIVE_UP_S, check=False)
    assert asked.returncode == 0, asked.stderr
    assert f"process {process.pid} " in asked.stdout and "has stopped" in asked.stdout
    _, err = process.communicate(timeout=GIVE_UP_S)
    assert process.returncode == 143
    assert "`septet stop` asked for it" in err.splitlines()[-1]
    assert read_ledger(launches.paths.ledger).state is StageState.stopped
    assert launches.left_behind() == []
    launches.finish()
    assert artefacts(launches.paths) == artefacts(undisturbed.paths)


def test_terminal_that_is_closed_does_not_keep_members_from_their_checkpoints(
    undisturbed: Launches, launches: Launches
) -> None:
    outer, inner = pty.openpty()
    launches.marker.unlink(missing_ok=True)
    process = subprocess.Popen(
        launches.command("training"),
        env=launches.environment,
        stdin=inner,
        stdout=inner,
        stderr=inner,
        text=True,
        cwd=launches.root,
        start_new_session=True,
        preexec_fn=_take_terminal,
    )
    os.close(inner)
    wait_for(launches.marker.exists, process)
    # The kernel sends SIGHUP to the session, and every write to the terminal is an error from now on.
    os.close(outer)
    assert process.wait(timeout=GIVE_UP_S) == 129
    assert launches.left_behind() == []
    assert read_ledger(launches.paths.ledger).state is StageState.stopped
    launches.finish()
    assert artefacts(launches.paths) == artefacts(undisturbed.paths)
    assert sum(redone_updates(entry) for entry in read_ledger(launches.paths.ledger).stages.values()) == 0


def _take_terminal() -> None:
    hear_all_signals()
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.mark.soak
def test_terminal_closed_on_a_launch_that_does_not_answer_redoes_updates(launches: Launches) -> None:
    process = launches.start(f"training{UNPROTECTED}")
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=GIVE_UP_S)
    assert process.returncode == -signal.SIGHUP
    assert read_ledger(launches.paths.ledger).state is StageState.running, "it was in no position to say so"


@pytest.mark.soak
def test_launch_under_nohup_does_not_hear_the_terminal_close(undisturbed: Launches, launches: Launches) -> None:
    launches.marker.unlink(missing_ok=True)
    process = subprocess.Popen(
        ["nohup", *launches.command("training")],
        env=launches.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=launches.root,
    )
    wait_for(launches.marker.exists, process)
    psutil.Process(process.pid).send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=GIVE_UP_S)
    assert process.returncode == 0, err
    assert artefacts(launches.paths) == artefacts(undisturbed.paths)
