"""A run directory from elsewhere: pickles, links and mad JSON in it are refused, and nothing outside it is touched.

Whoever can replace a file can replace its sha256 as well, so every payload here has the right one.
"""

import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from one_slot import one_slot

from orchestrator import cluster
from orchestrator.cli.program import main
from orchestrator.run import holder as run_dir
from workers.storage import atomic as json_text, checkpoint

SMALL = (
    "ensemble=solo",
    "cluster.cpus_per_member=1",
    "precision=fp32",
    "optimizer.batch_size=400",
    "model.width=0.1",
    "model.fc_units=32",
    "ensemble.stages.train.epochs=2",
    "checkpoint_updates=4",
)


@dataclass(frozen=True)
class Answer:
    """A command's exit code, and all that it said on stderr."""

    code: int
    said: str

    @property
    def line(self) -> str:
        """Its one complaint."""
        (line,) = [line for line in self.said.splitlines() if line.startswith("septet: ")]
        return line


@dataclass(frozen=True)
class Place:
    """A finished run of one small member, and the commands on it; nothing else is in `folder`."""

    folder: Path
    capture: pytest.CaptureFixture[str] | None = None

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def stage(self) -> Path:
        return self.run / "members" / "solo" / "train"

    @property
    def newest(self) -> Path:
        return max((self.stage / "checkpoints").glob("step-*"))

    @property
    def submission(self) -> bytes:
        return (self.run / "submission" / "submission.csv").read_bytes()

    def launch(self) -> Answer:
        store = self.folder.parent / "store"
        groups = self.folder.parent / "groups"
        uri = f"tracking.uri=sqlite:///{self.folder}/mlflow.db"
        return self.ask("launch", "--config-dir", groups, f"run_dir={self.run}", f"datasets.store={store}", uri, *SMALL)

    def ask(self, *words: object) -> Answer:
        code = main([str(word) for word in words])
        return Answer(code, self.capture.readouterr().err if self.capture else "")

    def undo_training(self) -> None:
        """As if the run had been killed behind its last checkpoint."""
        (self.stage / "DONE.json").unlink()
        shutil.rmtree(self.run / "members" / "solo" / "predictions")
        shutil.rmtree(self.run / "submission")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Trained once; tests work on copies."""
    top = tmp_path_factory.mktemp("hostile")
    (top / "groups" / "ensemble").mkdir(parents=True)
    (top / "groups" / "ensemble" / "solo.yaml").write_text("members: {solo: {stages: {train: {dataset: target}}}}\n")
    place = Place(top / "finished")
    place.folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "open_cluster", one_slot)
        assert place.launch().code == 0
        yield place


@pytest.fixture
def place(finished: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Place]:
    """A copy of the run where it lay, so that nothing in it says otherwise; the original waits beside it."""
    aside = finished.folder.with_name("aside")
    shutil.copytree(finished.folder, aside)
    capsys.readouterr()
    yield Place(finished.folder, capsys)
    shutil.rmtree(finished.folder)
    aside.rename(finished.folder)


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _replace_model(folder: Path, data: bytes) -> None:
    """Puts other bytes in the place of the weights, their sha256 into the manifest, and seals that anew."""
    (folder / "model.safetensors").write_bytes(data)
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    manifest["files"]["model.safetensors"] = {
        **manifest["files"]["model.safetensors"],
        "size": len(data),
        "sha256": _sha256(data),
    }
    manifest.pop(checkpoint._SEAL)
    (folder / "MANIFEST.json").write_bytes(checkpoint._sealed(manifest))


def test_pickle_in_the_place_of_weights_is_set_aside_unread_and_the_one_before_gives_the_same_bytes(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker, wanted, step = tmp_path / "marker", place.submission, place.newest.name
    payload = pickle.dumps(Touch(marker))
    place.undo_training()
    _replace_model(place.newest, payload)
    assert checkpoint.verify_checkpoint(place.newest), "sha256 alone would have caught it: nothing is shown"
    answer = place.launch()
    assert answer.code == 0, answer.said
    assert not marker.exists()
    assert list((place.stage / "checkpoints").glob(f"corrupt-*-{step}"))
    assert "no safetensors file" in (place.stage / "log.txt").read_text()
    assert place.submission == wanted
    # A loader that takes pickles would have run it.
    monkeypatch.setattr(checkpoint, "load", pickle.loads)
    shutil.rmtree(place.stage / "checkpoints" / step)
    (corrupt,) = (place.stage / "checkpoints").glob(f"corrupt-*-{step}")
    corrupt.rename(corrupt.with_name(step))
    with pytest.raises(AttributeError):
        checkpoint.read_weights(place.stage / "checkpoints" / step)
    assert marker.exists(), "the payload is no live one"


def _pickled_array(marker: Path) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Touch(marker)], dtype=object), allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "code"),
    [("members/solo/predictions/test.npy", 8), ("data/val.labels.npy", 7), ("data/test.sizes.npy", 7)],
)
def test_pickle_in_an_npy_file_is_refused_and_not_run(
    name: str, code: int, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker, before = tmp_path / "marker", place.submission
    payload = _pickled_array(marker)
    target = place.run / name
    target.write_bytes(payload)
    about = target.with_suffix(".json")
    if about.exists():
        about.write_text(json.dumps({**json.loads(about.read_text()), "sha256": _sha256(payload)}))
    answer = place.ask("submit", place.run)
    assert answer.code == code
    assert answer.line
    assert not marker.exists()
    assert place.submission == before
    careful = np.load
    monkeypatch.setattr(np, "load", lambda file, **_: careful(file, allow_pickle=True))
    place.ask("submit", place.run)
    assert marker.exists(), "the payload is no live one"


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("name", "verb", "code"),
    [
        ("run.json", "status", 7),
        ("ledger.json", "status", 7),
        ("members/solo/train/DONE.json", "status", 7),
        ("data/dataset.json", "submit", 7),
        ("members/solo/predictions/test.json", "submit", 8),
        ("submission/manifest.json", "report", 7),
        ("submission/manifest.json", "verify", 8),
    ],
)
def test_json_nested_beyond_all_measure_is_called_damaged(
    name: str, verb: str, code: int, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place.run / name).write_text(DEEP)
    answer = place.ask(verb, place.run)
    assert answer.code == code, answer.said
    assert Path(name).name in answer.line or "data" in answer.line
    # Not turned into a ValueError, it ends as an internal error.
    monkeypatch.setattr(json_text, "RecursionError", ZeroDivisionError, raising=False)
    assert place.ask(verb, place.run).code == 1


def test_manifest_nested_beyond_all_measure_costs_only_its_checkpoint(place: Place) -> None:
    newest = place.newest
    (newest / "MANIFEST.json").write_text(DEEP)
    found = checkpoint.newest_checkpoint(newest.parent)
    assert found is not None and found.checkpoint.step < int(newest.name.removeprefix("step-"))


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.mkdir ['{marker}']\n",
        "combine: {{_target_: os.mkdir, path: '{marker}'}}\n",
        "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * 9)}]\n" for n in range(9)),
    ],
)
def test_hostile_config_yaml_of_a_run_is_refused(text: str, place: Place, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    (place.run / "config.yaml").write_text(text.format(marker=marker))
    answer = place.ask("submit", place.run)
    assert answer.code == 2
    assert answer.line
    assert not marker.exists()


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """Another's folder, with names that a run's own housekeeping would clear away."""
    folder = tmp_path / "victim"
    (folder / "step-00000001").mkdir(parents=True)
    (folder / "step-00000001" / "precious").write_text("thesis")
    (folder / ".tmp-notes").write_text("precious")
    return folder


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _link(path: Path, target: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize(
    "name",
    [
        "members/solo",
        "members/solo/train",
        "members/solo/train/checkpoints",
        "members/solo/train/metrics.jsonl",
        "members/solo/predictions",
        "submission",
        "report",
    ],
)
def test_link_inside_a_run_directory_is_refused_and_nothing_behind_it_changes(
    name: str, place: Place, victim: Path
) -> None:
    place.undo_training()
    _link(place.run / name, victim if "." not in name else victim / ".tmp-notes")
    before = _content(victim)
    answer = place.launch()
    assert answer.code == 7
    assert f"{name}: is a link" in answer.line
    assert _content(victim) == before


def test_link_inside_a_run_directory_would_be_followed_were_it_not_refused(
    place: Place, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.undo_training()
    _link(place.stage / "checkpoints", victim)
    before = _content(victim)
    monkeypatch.setattr(run_dir, "refuse_links", lambda paths: None)
    place.launch()
    assert _content(victim) != before


def test_lock_that_is_a_link_overwrites_nothing(place: Place, victim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _link(place.run / ".lock", victim / ".tmp-notes")
    answer = place.ask("submit", place.run)
    assert answer.code == 7
    assert ".lock: is a link" in answer.line
    assert (victim / ".tmp-notes").read_text() == "precious"
    monkeypatch.setattr(os, "O_NOFOLLOW", 0)
    monkeypatch.setattr(run_dir, "refuse_links", lambda paths: None)
    place.ask("submit", place.run)
    assert (victim / ".tmp-notes").read_text() != "precious"


def test_run_directory_may_itself_be_a_link(place: Place, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(place.run)
    assert place.ask("submit", tmp_path / "latest").code == 0


@pytest.mark.parametrize("name", ["", "model.safetensors", "MANIFEST.json"])
def test_checkpoint_that_is_a_link_or_holds_one_is_set_aside(name: str, place: Place, tmp_path: Path) -> None:
    newest = place.newest
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(newest, elsewhere)
    _link(newest / name if name else newest, elsewhere / name if name else elsewhere)
    found = checkpoint.newest_checkpoint(newest.parent)
    assert found is not None and found.checkpoint.folder.name < newest.name
    assert list(newest.parent.glob(f"corrupt-*-{newest.name}"))
    assert {path.name for path in elsewhere.iterdir()} >= {"model.safetensors", "MANIFEST.json"}


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_files_are_as_open_as_the_users_umask_says(umask: int, mode: int, tmp_path: Path) -> None:
    program = "import os, sys; os.umask(int(sys.argv[1])); from workers.storage.atomic import write_text; "
    program += "from pathlib import Path; write_text(Path(sys.argv[2]), 'x')"
    subprocess.run([sys.executable, "-c", program, str(umask), str(tmp_path / "file")], check=True)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode
