"""A signal at every moment of a launch: its exit code, one line, nothing left behind, and the same bytes in the end."""

import fcntl
import os
import pty
import signal
import subprocess
import termios

import pytest
from oracle import expect_clean_end, expect_end_in_order, expect_line, expect_recovered, hear_all_signals
from redone import redone_updates
from run_artefacts import artefacts
from septet_held import MOMENTS, RAY, UNPROTECTED

from orchestrator.run.ledger import State, read_ledger

# tests/e2e has a Ctrl-C while members train, in every run of the tests.
pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
CASES = [(moment, number) for moment in (*MOMENTS, RAY) for number in CODES]


@pytest.fixture
def place(new_place):
    return new_place("signalled", in_process=True)


def redone(place):
    return sum(redone_updates(entry) for entry in read_ledger(place.paths.ledger).stages.values())


@pytest.mark.parametrize(("moment", "number"), CASES)
def test_signal_at_any_moment_stops_in_order(undisturbed, place, family, moment, number):
    if moment == "measuring":
        place.overrides = tuple(word for word in place.overrides if "cpus_per_member" not in word)
    process = place.start(moment=moment)
    process.send_signal(number)
    ended = place.ended(process)
    expect_line(ended, CODES[number], "septet: stopped as asked")
    assert ended.out == ""
    expect_end_in_order(place, family)
    assert not list(place.paths.submission.glob("submission.*"))
    expect_recovered(place, undisturbed, family)
    # Each attempt resumed from where the signal had found it.
    assert moment != "training" or redone(place) == 0


def test_second_ctrl_c_leaves_no_process_and_no_lock(undisturbed, place, family):
    process = place.start(moment="submission")
    # Both are there when it continues: the second finds the first one's clean-up at its very beginning.
    for number in (signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
        process.send_signal(number)
    assert place.ended(process).code in (130, 143)
    expect_clean_end(place, family)
    expect_recovered(place, undisturbed, family)


def _take_terminal():
    hear_all_signals()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_closed_terminal_ends_a_launch_at_its_checkpoints(undisturbed, place, family):
    outer, inner = pty.openpty()
    streams = {"stdin": inner, "stdout": inner, "stderr": inner}
    process = place.start(moment="training", start_new_session=True, preexec_fn=_take_terminal, **streams)
    os.close(inner)
    # The kernel sends SIGHUP to the session, and every write to the terminal is an error from now on.
    os.close(outer)
    assert place.ended(process).code == 129
    expect_end_in_order(place, family)
    assert read_ledger(place.paths.ledger).state is State.stopped
    expect_recovered(place, undisturbed, family)
    assert redone(place) == 0


def test_terminal_closed_on_a_launch_that_does_not_answer_redoes_updates(place):
    process = place.start(moment=f"training{UNPROTECTED}")
    process.send_signal(signal.SIGHUP)
    assert place.ended(process).code == -signal.SIGHUP
    assert read_ledger(place.paths.ledger).state is State.running, "it was in no position to say so"


def test_launch_under_nohup_does_not_hear_the_terminal_close(undisturbed, place):
    process = place.start(moment="training", before=("nohup",), stdin=subprocess.DEVNULL)
    process.send_signal(signal.SIGHUP)
    place.let_go()
    ended = place.ended(process)
    assert ended.code == 0, ended.err
    assert artefacts(place.paths) == artefacts(undisturbed.paths)
