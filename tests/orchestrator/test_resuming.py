"""What run.json keeps of a launch's command, and the configuration that `septet resume` composes from it."""

import json
import shlex
from dataclasses import replace

import pytest

from orchestrator.cli.program import main
from orchestrator.config.composition import compose
from orchestrator.launching import recompose
from orchestrator.report import write
from orchestrator.report.page import render
from orchestrator.run.paths import RunPaths
from orchestrator.run.record import read_record, write_record
from workers.errors import ConfigError, DataError

PHOTOS = ("dataset@datasets.target=folder", "datasets.target.root=my photos", "ensemble=five", "run_dir=run")


@pytest.fixture
def place(tmp_path, monkeypatch, make_run):
    """A working directory with a run, which `PHOTOS` launched there."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    paths = make_run(tmp_path / "run").paths
    launched = compose(PHOTOS)
    write_record(paths, replace(read_record(paths), command=launched.command, directory=launched.directory))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


def test_recompose_resolves_paths_where_the_launch_was_typed_and_takes_the_run_s_place(place):
    found = recompose(RunPaths(place / "run"))
    assert found.datasets["target"].root == str(place / "my photos")
    assert found.tracking.uri == f"sqlite:///{place}/mlflow.db"
    (place / "run").rename(place / "renamed")
    assert recompose(RunPaths(place / "renamed")).run_dir == str(place / "renamed")


def test_recompose_keeps_the_store_that_the_environment_gave_and_asks_for_its_password(place, monkeypatch):
    paths = RunPaths(place / "run")
    write_record(paths, replace(read_record(paths), mlflow={"uri": "http://tracked:5000"}))
    assert recompose(paths).tracking.uri == "http://tracked:5000"
    write_record(paths, replace(read_record(paths), mlflow={"uri": "http://***@tracked:5000"}))
    with pytest.raises(ConfigError, match="put the whole address into MLFLOW_TRACKING_URI"):
        recompose(paths)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:mine@tracked:5000")
    assert recompose(paths).tracking.uri == "http://me:mine@tracked:5000"


def test_recompose_finds_the_user_s_own_groups(place, monkeypatch):
    (place / "groups" / "ensemble").mkdir(parents=True)
    (place / "groups" / "ensemble" / "mine.yaml").write_text("members: {only: {stages: {train: {dataset: target}}}}\n")
    monkeypatch.chdir(place)
    command = compose(["ensemble=mine"], (place / "elsewhere" / ".." / "groups").relative_to(place)).command
    monkeypatch.chdir(place / "elsewhere")
    paths = RunPaths(place / "run")
    write_record(paths, replace(read_record(paths), command=command))
    assert list(recompose(paths).members) == ["only"]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"command": ()}, ConfigError, "an earlier release"),
        (
            {"command": ("septet", "launch", "tracking.uri=http://***@host")},
            ConfigError,
            r"keeps no password, as in tracking.uri=http://\*\*\*@host",
        ),
        (
            {"directory": "/no/such/folder"},
            DataError,
            "type the launch again: septet launch dataset@.*'datasets.target",
        ),
    ],
)
def test_recompose_says_why_it_cannot(place, changes, error, words):
    paths = RunPaths(place / "run")
    write_record(paths, replace(read_record(paths), **changes))
    with pytest.raises(error, match=words):
        recompose(paths)


def test_record_of_an_earlier_release_has_no_command_and_resume_says_what_to_type(place, capsys):
    paths = RunPaths(place / "run")
    entries = json.loads(paths.run_json.read_text())
    del entries["command"], entries["directory"], entries["numerics"]["compile"]
    paths.run_json.write_text(json.dumps(entries))
    assert read_record(paths).numerics.compile == "off"
    assert main(["resume", str(paths.root)]) == 2
    assert "type the launch again, with run_dir=" in capsys.readouterr().err


@pytest.mark.usefixtures("no_drawing")
def test_report_shows_the_whole_command_quoted_so_that_it_makes_the_same_configuration(place, capsys):
    shown = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "render", lambda *page: shown.extend(page[2]) or render(*page))
        (place / "run" / "config.yaml").write_text(compose([]).yaml)
        assert main(["report", str(place / "run")]) == 0
    facts = {fact.name: fact.value for section in shown if section.key == "again" for fact in section.details}
    program, verb, *overrides = shlex.split(facts["command"])
    assert (program, verb, tuple(overrides)) == ("septet", "launch", PHOTOS)
    assert facts["launched in"] == str(place)
