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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from command_line import ask
from in_process_launch import MEMBER, Place

from workers.storage import atomic, checkpoint


@dataclass(frozen=True)
class Copy(Place):
    """A finished run of one small member, and the commands on it."""

    capture: pytest.CaptureFixture[str]

    @property
    def newest(self):
        return max(self.checkpoints.glob("step-*"))

    @property
    def submission(self):
        return (self.root / "submission" / "submission.csv").read_bytes()

    def launch_again(self):
        return self.ask(*self.words())

    def ask(self, *words):
        return ask(self.capture, *words)

    def undo_training(self):
        """As if the run had been killed behind its last checkpoint."""
        (self.stage_dir / "DONE.json").unlink()
        shutil.rmtree(self.paths.predictions(MEMBER))
        shutil.rmtree(self.paths.submission)


@pytest.fixture
def place(smallest, in_threads, capsys):
    """A copy of the run where it lay, so that nothing in it says otherwise; the original waits beside it."""
    aside = smallest.root.with_name("aside")
    shutil.copytree(smallest.root, aside)
    yield Copy(smallest.root, smallest.shared, capsys)
    shutil.rmtree(smallest.root)
    aside.rename(smallest.root)


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def _sha256(data):
    return hashlib.sha256(data).hexdigest()


def _replace_model(folder, data):
    """Puts other bytes in the place of the weights, their sha256 into the manifest, and seals that again."""
    (folder / "model.safetensors").write_bytes(data)
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    manifest["files"]["model.safetensors"] |= {"size": len(data), "sha256": _sha256(data)}
    manifest.pop(atomic.SEAL)
    (folder / "MANIFEST.json").write_bytes(checkpoint.sealed(manifest))


@pytest.mark.slow
def test_pickle_in_place_of_weights_is_set_aside_and_the_one_before_used(place, tmp_path):
    marker, wanted, step = tmp_path / "marker", place.submission, place.newest.name
    payload = pickle.dumps(Touch(marker))
    place.undo_training()
    _replace_model(place.newest, payload)
    assert checkpoint.verify_checkpoint(place.newest), "sha256 alone would have caught it: nothing is shown"
    answer = place.launch_again()
    assert answer.code == 0, answer.err
    assert not marker.exists()
    assert list((place.stage_dir / "checkpoints").glob(f"corrupt-*-{step}"))
    assert "is not a safetensors file" in (place.stage_dir / "log.txt").read_text()
    assert place.submission == wanted
    pickle.loads(payload)  # noqa: S301 – to show that it is live
    assert marker.exists(), "the payload is no live one"


def _pickled_array(marker):
    file = io.BytesIO()
    np.save(file, np.array([Touch(marker)], dtype=object), allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(("name", "code"), [("members/solo/predictions/test.npy", 8), ("data/val.labels.npy", 7)])
def test_pickle_in_an_npy_file_is_refused_and_not_run(name, code, place, tmp_path):
    marker, before = tmp_path / "marker", place.submission
    payload = _pickled_array(marker)
    target = place.root / name
    target.write_bytes(payload)
    about = target.with_suffix(".json")
    if about.exists():
        about.write_text(json.dumps({**json.loads(about.read_text()), "sha256": _sha256(payload)}))
    answer = place.ask("submit", place.root)
    assert answer.code == code
    assert answer.line
    assert not marker.exists()
    assert place.submission == before
    np.load(target, allow_pickle=True)
    assert marker.exists(), "the payload is no live one"


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("name", "verb", "code"),
    [
        ("run.json", "status", 7),
        ("members/solo/train/DONE.json", "status", 7),
        ("members/solo/predictions/test.json", "submit", 8),
        ("submission/manifest.json", "verify", 8),
    ],
)
def test_json_nested_beyond_all_measure_is_called_damaged(name, verb, code, place):
    (place.root / name).write_text(DEEP)
    answer = place.ask(verb, place.root)
    assert answer.code == code, answer.err
    assert Path(name).name in answer.line or "data" in answer.line


def test_manifest_nested_beyond_all_measure_costs_only_its_checkpoint(place):
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
def test_hostile_config_yaml_of_a_run_is_refused(text, place, tmp_path):
    marker = tmp_path / "marker"
    (place.root / "config.yaml").write_text(text.format(marker=marker))
    answer = place.ask("submit", place.root)
    assert answer.code == 2
    assert answer.line
    assert not marker.exists()


@pytest.fixture
def victim(tmp_path):
    """Another's folder, with names that a run's own housekeeping would clear away."""
    folder = tmp_path / "victim"
    (folder / "step-00000001").mkdir(parents=True)
    (folder / "step-00000001" / "precious").write_text("thesis")
    (folder / ".tmp-notes").write_text("precious")
    return folder


def _content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _link(path, target):
    shutil.rmtree(path, ignore_errors=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize(
    "name",
    [
        "members/solo/train/checkpoints",
        "members/solo/train/metrics.jsonl",
        "members/solo/predictions",
        "submission",
        "report",
    ],
)
def test_link_inside_a_run_is_refused_and_not_followed(name, place, victim):
    place.undo_training()
    _link(place.root / name, victim if "." not in name else victim / ".tmp-notes")
    before = _content(victim)
    answer = place.launch_again()
    assert answer.code == 7
    assert f"{name}: is a link" in answer.line
    assert _content(victim) == before


def test_lock_that_is_a_link_overwrites_nothing(place, victim):
    _link(place.root / ".lock", victim / ".tmp-notes")
    answer = place.ask("submit", place.root)
    assert answer.code == 7
    assert ".lock: is a link" in answer.line
    assert (victim / ".tmp-notes").read_text() == "precious"


def test_run_directory_may_itself_be_a_link(place, tmp_path):
    (tmp_path / "latest").symlink_to(place.root)
    assert place.ask("submit", tmp_path / "latest").code == 0


@pytest.mark.parametrize("name", ["", "model.safetensors", "MANIFEST.json"])
def test_checkpoint_that_is_a_link_or_holds_one_is_set_aside(name, place, tmp_path):
    newest = place.newest
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(newest, elsewhere)
    _link(newest / name if name else newest, elsewhere / name if name else elsewhere)
    found = checkpoint.newest_checkpoint(newest.parent)
    assert found is not None and found.checkpoint.folder.name < newest.name
    assert list(newest.parent.glob(f"corrupt-*-{newest.name}"))
    assert {path.name for path in elsewhere.iterdir()} >= {"model.safetensors", "MANIFEST.json"}


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_files_are_as_open_as_the_users_umask_says(umask, mode, tmp_path):
    program = "import os, sys; os.umask(int(sys.argv[1])); from workers.storage import atomic; "
    program += "from pathlib import Path; made = atomic.atomic_folder(Path(sys.argv[2]).parent / 'folder'); "
    program += "made.__enter__(); made.__exit__(None, None, None); atomic.write_text(Path(sys.argv[2]), 'x')"
    subprocess.run([sys.executable, "-c", program, str(umask), str(tmp_path / "file")], check=True)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o777 & ~umask
