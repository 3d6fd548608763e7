"""The oracle itself: it passes a run that nothing befell, and each of its checks can fail."""

import signal
import subprocess
import sys

import pytest
from oracle import Ended, expect_clean_end, expect_line, expect_recovered, submission_state, wait_for
from run_artefacts import artefacts


@pytest.mark.soak
def test_launch_on_ray_killed_passes_every_check(undisturbed, new_place, family):
    place = new_place("ray")
    in_training = place.paths.members / "plain" / "train" / "checkpoints"
    ended = place.launch_until(
        lambda: any(in_training.glob("step-*")), lambda process: process.send_signal(signal.SIGKILL)
    )
    assert ended.code == -signal.SIGKILL
    expect_clean_end(place, family)
    expect_recovered(place, undisturbed, family)


def test_processes_whose_parent_is_gone_are_seen(family):
    inner = "import time; time.sleep(600)"
    outer = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {inner!r}], start_new_session=True)"
    subprocess.run([sys.executable, "-c", outer], check=True)
    (orphan,) = family.living()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(AssertionError, match=r"orphans: .*time\.sleep"):
        patch.setattr("oracle.GONE_S", 0.1)
        family.expect_none()
    orphan.kill()
    wait_for(lambda: not family.living())


OLD = {"submission.csv": b"old", "manifest.json": b"about old"}
NEW = {"submission.csv": b"new", "manifest.json": b"about new"}


@pytest.mark.parametrize(
    "found",
    [
        {**NEW, "manifest.json": b"about old"},
        {"submission.csv": b"new"},
        {"submission.csv": b"ne", "manifest.json": b"about new"},
        {**NEW, "submission.txt": b"of another format"},
    ],
)
def test_submission_that_is_a_mix_is_caught(found):
    assert [submission_state(whole, OLD, NEW) for whole in ({}, OLD, NEW)] == ["absent", "old", "new"]
    with pytest.raises(AssertionError, match="a mix"):
        submission_state(found, OLD, NEW)


@pytest.mark.parametrize(
    "err", ["", "septet: one\nseptet: two\n", "septet: full\nTraceback (most recent call last)\n", "septet: other\n"]
)
def test_line_that_is_none_or_not_the_one_is_caught(err):
    expect_line(Ended(7, "", "progress\nseptet: disk is full\n"), 7, "full")
    with pytest.raises(AssertionError):
        expect_line(Ended(7, "", err), 7, "full")


@pytest.mark.slow
def test_weights_that_changed_under_their_done_json_are_caught(undisturbed):
    newest = max(undisturbed.paths.members.glob("plain/train/checkpoints/*/model.safetensors"))
    whole = newest.read_bytes()
    try:
        newest.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(AssertionError, match=r"model\.safetensors"):
            artefacts(undisturbed.paths)
    finally:
        newest.write_bytes(whole)
