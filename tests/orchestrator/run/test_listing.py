"""`septet list`: every run below a folder, also those that cannot be read."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from whole_run import commit

from orchestrator.cli.program import main
from orchestrator.config.schema import CombineConfig, SubmissionConfig
from orchestrator.run.holder import lock
from orchestrator.run.ledger import Ledger, State
from orchestrator.run.record import read_record, write_record

pytestmark = pytest.mark.usefixtures("no_drawing")


@pytest.fixture
def runs(tmp_path, make_run, monkeypatch):
    """`runs/` with a finished run, one further in that is not begun, a damaged one and a link to the first."""
    monkeypatch.chdir(tmp_path)
    whole = make_run(Path("runs/whole"))
    write_record(whole.paths, replace(read_record(whole.paths), created=1e9))
    commit(whole, CombineConfig(), SubmissionConfig())
    Ledger(whole.paths.ledger).set_state(State.done)
    fresh = make_run(Path("runs/deep/er/fresh"))
    damaged = make_run(Path("runs/damaged"))
    damaged.paths.run_json.write_text("{")
    Path("runs/link").symlink_to(whole.paths.root.absolute())
    Path("runs/not-a-run").mkdir()
    return whole, fresh, damaged


def test_list_tells_state_members_error_size_and_date_of_each(runs, capsys):
    assert main(["list", "--json"]) == 0
    told = {one["path"]: one for one in json.loads(capsys.readouterr().out)}
    assert list(told) == ["runs/damaged", "runs/deep/er/fresh", "runs/link", "runs/whole"]
    whole = told["runs/whole"]
    paths = runs[0].paths
    assert whole["size_bytes"] == sum(path.stat().st_size for path in paths.root.rglob("*") if path.is_file())
    error = json.loads(paths.report_scores.read_text())["ensemble"]["top1_error"]
    expected = {"state": "done", "num_members": 4, "top1_error": error, "created": 1e9, "problem": None}
    assert {key: whole[key] for key in expected} == expected
    assert told["runs/link"] == whole | {"path": "runs/link"}
    fresh = told["runs/deep/er/fresh"]
    assert (fresh["state"], fresh["top1_error"], fresh["problem"]) == ("waiting", None, None)
    assert "not readable as a run record" in told["runs/damaged"]["problem"]


def test_list_in_words_has_a_line_a_run_and_takes_no_lock(runs, capsys):
    with lock(runs[0].paths):
        assert main(["list", "runs"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "state", "members", "error", "size", "began"]
    assert [line.split()[0] for line in lines] == ["runs/damaged", "runs/deep/er/fresh", "runs/link", "runs/whole"]
    assert "done   " in lines[3] and "2001-09-" in lines[3]
    assert main(["list", "runs/whole"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("runs/whole")


def test_list_of_no_folder_exits_3_and_of_an_empty_one_shows_the_head_alone(tmp_path, capsys):
    assert main(["list", str(tmp_path / "none")]) == 3
    assert "give the one that your runs are in" in capsys.readouterr().err
    assert main(["list", str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
