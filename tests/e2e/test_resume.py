"""`septet resume` in a process of its own, from another folder: a killed launch ends as if nothing had happened."""

import json
import shlex
import subprocess
import sys

import pytest
from make_run import LAUNCH, septet, write_images

from orchestrator.config.composition import compose
from orchestrator.inputs import survey_all
from orchestrator.plan.build import make_plan


@pytest.mark.soak
def test_killed_launch_is_resumed_from_elsewhere_and_its_report_tells_the_plan(tmp_path, monkeypatch):
    typed, elsewhere = tmp_path / "typed here", tmp_path / "elsewhere"
    typed.mkdir()
    elsewhere.mkdir()
    write_images(typed)
    words = [sys.executable, "-m", "orchestrator.cli.program", "launch", *LAUNCH]
    with subprocess.Popen(words, cwd=typed, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as launch:
        # The members are at work once it shows them running.
        while "running" not in (line := launch.stderr.readline()):
            assert line, "the launch ended before it trained"
        launch.kill()
    run = typed / "run"
    assert not (run / "submission").exists()
    resumed = septet(elsewhere, "resume", str(run))
    assert resumed.returncode == 0, resumed.stderr
    assert f"submission  {run}/submission/submission.csv" in resumed.stdout
    record = json.loads((run / "run.json").read_text())
    assert record["command"] == ["septet", "launch", *LAUNCH] and record["directory"] == str(typed)
    page = (run / "report" / "index.html").read_text()
    assert shlex.join(record["command"]) in page
    monkeypatch.chdir(typed)
    config = compose(record["command"][2:])
    assert make_plan(config, survey_all(config)).hash == record["plan_hash"]
    assert list(elsewhere.iterdir()) == []
    again = septet(elsewhere, "resume", "../typed here/run")
    assert again.returncode == 0 and "submission" in again.stdout, again.stderr
    assert json.loads((run / "run.json").read_text())["command"] == record["command"]
