"""A module of the user's that bears the name of one of Septet's packages is named in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def started(words, folder, *path):
    """What a fresh interpreter says, started in `folder` with `path` before Septet's own place."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT)))}
    command = [sys.executable, *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)


def hide(folder, name, form):
    place = folder / f"{name}.py" if form == "module" else folder / name / "__init__.py"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("raise SystemExit('the user’s own code ran')")
    return place


@pytest.mark.parametrize(
    ("name", "form"), [("orchestrator", "package"), ("workers", "module"), ("conf", "module"), ("conf", "package")]
)
def test_package_of_the_user_on_the_path_is_named_and_exits_2(tmp_path, name, form):
    place = hide(tmp_path / "own", name, form)
    ended = started(["-c", "from septet import command; command()", "--version"], tmp_path, tmp_path / "own")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"septet: {place}: hides Septet's own package {name}; rename it, or start from another folder and without it "
        "on PYTHONPATH\n"
    )


def test_package_in_the_working_directory_is_named_where_python_looks_there(tmp_path):
    place = hide(tmp_path, "workers", "package")
    ended = started(["-m", "septet", "--version"], tmp_path)
    assert (ended.returncode, str(place) in ended.stderr) == (2, True)
    ended = started(["-c", "import septet; septet.compose"], tmp_path)
    assert f"ImportError: {place}: hides Septet's own package workers" in ended.stderr


def test_folders_of_these_names_without_code_hide_nothing(tmp_path):
    for name in ("conf", "workers"):
        (tmp_path / name).mkdir()
    ended = started(["-m", "septet", "--version"], tmp_path)
    assert (ended.returncode, ended.stdout.startswith("septet ")) == (0, True), ended.stderr
    ended = started(["-c", "from septet import *; print(compose.__module__, Plan.__name__)"], tmp_path)
    assert ended.stdout == "orchestrator.config.composition Plan\n"
