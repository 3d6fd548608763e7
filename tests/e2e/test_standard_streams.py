"""Closed, full and narrow standard streams: the exit code tells the outcome, and no traceback is seen."""

import io
import json
import os
import subprocess
import sys

import pytest
from oracle import SMALL, child_environment

from orchestrator.cli.streams import Streams

RESULT = "stdout: the result cannot be written"


def septet(folder, redirected, *words, **environment):
    """Runs `septet WORDS` in a shell with streams redirected."""
    quoted = " ".join(f"'{word}'" for word in (sys.executable, "-m", "orchestrator.cli.program", *words))
    given = child_environment() | {"HOME": str(folder)} | environment
    return subprocess.run(
        ["sh", "-c", f"{quoted} {redirected}"], cwd=folder, env=given, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("redirected", [">&-", ">/dev/full"])
def test_result_that_cannot_be_written_is_an_error(redirected, tmp_path):
    for words in (("--help",), ("doctor", "--help"), ("plan", "--json", *SMALL[1:2]), ("launch", "--cfg")):
        ended = septet(tmp_path, redirected, *words)
        assert ended.returncode == 7
        assert RESULT in ended.stderr.splitlines()[-1] and "Traceback" not in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("redirected", [">&-", ">/dev/full", ">&- 2>&-", ">/dev/full 2>/dev/full", "<&- >&- 2>&-"])
def test_news_that_cannot_be_written_does_not_change_the_outcome(redirected, tmp_path):
    ended = septet(tmp_path, redirected, "prepare")
    assert (ended.returncode, "Traceback" in ended.stderr) == (0, False)
    assert septet(tmp_path, redirected, "launch", "seed=-1").returncode == 2


@pytest.mark.parametrize("redirected", ["2>&-", "2>/dev/full"])
def test_error_that_cannot_be_told_keeps_its_code(redirected, tmp_path):
    assert septet(tmp_path, redirected, "status", "absent").returncode == 3


@pytest.mark.slow
def test_reader_that_ends_early_ends_a_result_and_not_a_launch(tmp_path):
    script = '; echo "${PIPESTATUS[0]}" >&2'
    given = child_environment() | {"HOME": str(tmp_path)}
    for words, code in ((("plan", "--json"), "141"), (("prepare",), "0")):
        quoted = " ".join((sys.executable, "-m", "orchestrator.cli.program", *words))
        ended = subprocess.run(
            ["bash", "-c", f"{quoted} 2>/dev/null | exec 0<&-{script}"],
            env=given, cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ended.stderr.strip() == code


def test_output_that_is_not_utf_8_shows_question_marks_and_whole_json(tmp_path):
    place = tmp_path / "×†"
    place.mkdir()
    narrow = {"PYTHONIOENCODING": "ascii"}
    told = septet(tmp_path, "", "prepare", f"datasets.store={place}", **narrow)
    assert (told.returncode, "folder" in told.stdout, "??" in told.stdout) == (0, True, True), told.stderr
    out = io.TextIOWrapper(io.BytesIO(), "ascii")
    Streams(out, out).answer(str(place), [])
    out.flush()
    assert json.loads(out.buffer.getvalue()) == str(place)
    assert os.fsdecode(b"x") == "x"
