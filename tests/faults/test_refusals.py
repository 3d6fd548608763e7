"""Configuration, data or code changed since the run began: refused by name, or accepted and written down."""

import json
import shutil

import pytest
from command_line import write_ensemble
from one_slot import one_slot
from pictures import write_photos

from orchestrator import cluster, launching as launch
from orchestrator.cli.program import main
from orchestrator.cluster import actor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SMALL = (
    *("ensemble=one", "cluster.cpus_per_member=1", "precision=fp32", "optimizer.batch_size=20", "model.width=0.05"),
    *("ensemble.stages.train.epochs=1", "model.fc_units=8", "run_dir=run", "datasets.store=store"),
    *("--config-dir=groups", "dataset@datasets.target=folder", "datasets.target.root=images"),
    "datasets.target.size=32",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A working directory with a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    write_ensemble(folder / "groups", "one", "one")
    for place in ("train/cat", "train/dog", "val/cat", "val/dog"):
        write_photos(folder / "images" / place, 40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "open_cluster", one_slot)
        patch.chdir(folder)
        assert main(["launch", *SMALL]) == 0
    return folder


@pytest.fixture
def folder(finished, tmp_path, monkeypatch, in_threads):
    """A copy of it, to work in."""
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    monkeypatch.chdir(copy)
    return copy


def _state(run):
    """All files of the run; the lock says who held it last."""
    files = [path for path in run.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def _change(folder, monkeypatch, what):
    """Makes the change; the words that it adds to the command line."""
    if what == "data":
        shutil.copy(folder / "images/train/cat/0.png", folder / "images/train/dog/more.png")
    elif what == "code":
        monkeypatch.setattr(launch, "code_digest", lambda: "0123456789abcdef")
        monkeypatch.setattr(actor, "code_digest", lambda: "0123456789abcdef")
    elif what == "torch":
        monkeypatch.setattr(launch, "code_digest", lambda: "0123456789abcdef")
        monkeypatch.setattr(launch, "versions", lambda: {"torch": "99.0"})
    elif what == "class":
        (folder / "images" / "train" / "dog").rename(folder / "images" / "train" / "fox")
        (folder / "images" / "val" / "dog").rename(folder / "images" / "val" / "fox")
    else:
        return (what,)
    return ()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("optimizer.lr=0.5", ("optimizer.lr: ", " → 0.5", "one/train")),
        ("class", ("datasets.target: 2 classes → 2; 1 gone (dog…), 1 new (fox…)",)),
        ("data", ("the content of datasets.target", "digest ", " → ")),
        ("code", ("the code of workers/", " → 0123456789ab")),
        ("torch", ("torch (", " → 99.0)")),
    ],
)
def test_change_since_the_run_began_is_refused_by_name_and_nothing_on_disk_changes(
    folder, monkeypatch, capsys, what, said
):
    words = _change(folder, monkeypatch, what)
    before = _state(folder / "run")
    assert main(["launch", *SMALL, *words]) == 6
    line = capsys.readouterr().err.splitlines()[-1]
    assert all(part in line for part in said), line
    assert _state(folder / "run") == before


@pytest.mark.parametrize("what", ["data", "code"])
def test_accepted_change_is_recorded_and_not_asked_about(folder, monkeypatch, what):
    words = _change(folder, monkeypatch, what)
    assert main(["launch", *SMALL, *words, "--accept-changes"]) == 0
    (accepted,) = json.loads((folder / "run" / "run.json").read_text())["accepted"]
    assert {"data": "datasets.target", "code": "workers/"}[what] in accepted
    assert main(["launch", *SMALL, *words]) == 0


def test_other_plan_is_refused_also_where_changes_are_accepted(folder):
    before = _state(folder / "run")
    assert main(["launch", *SMALL, "optimizer.lr=0.5", "--accept-changes"]) == 6
    assert _state(folder / "run") == before
