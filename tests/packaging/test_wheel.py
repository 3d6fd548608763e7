"""The built wheel is the whole project: every module and every configuration file, run from elsewhere."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PACKAGES = ("orchestrator", "workers", "conf")


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the checkout as it is, built from a copy so that no build folder is left in it."""
    work = tmp_path_factory.mktemp("wheel")
    source = work / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "septet.py"):
        shutil.copy(checkout / name, source)
    for name in PACKAGES:
        shutil.copytree(checkout / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    # pip would do the same under a second interpreter and a temporary environment.
    build = "from setuptools import build_meta; build_meta.build_wheel('..')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True, text=True)
    (built,) = work.glob("septet-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content in a folder of its own."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(wheel)], check=True, capture_output=True, text=True)
    return target


def test_wheel_holds_every_file_of_the_packages(wheel: Path, checkout: Path) -> None:
    wanted = {
        path.relative_to(checkout).as_posix()
        for name in PACKAGES
        for path in (checkout / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    wanted.add("septet.py")
    assert "conf/config.yaml" in wanted
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.split("/")[0] in (*PACKAGES, "septet.py")}
    assert held == wanted


def test_wheel_names_licence_and_console_script(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        text = {
            name.split("/", 1)[1]: archive.read(name).decode() for name in archive.namelist() if ".dist-info/" in name
        }
    assert "septet = septet:command" in text["entry_points.txt"]
    assert "License-Expression: Apache-2.0" in text["METADATA"]
    assert "Apache License" in text["licenses/LICENSE"]


@pytest.mark.slow
def test_installed_wheel_plans_from_another_folder(installed: Path, tmp_path: Path) -> None:
    # -P keeps the working directory off the path, -S would lose the dependencies: the wheel's copy must come first.
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    found = "import orchestrator, workers, conf; print(orchestrator.__file__, workers.__file__, conf.__file__)"
    located = subprocess.run(
        [sys.executable, "-c", found], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    ).stdout.split()
    assert all(Path(name).is_relative_to(installed) for name in located)
    run = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli.program", "plan", "--json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    plan = json.loads(run.stdout)
    assert len({stage["member"] for stage in plan["stages"]}) == 7
    assert list(tmp_path.iterdir()) == [], "plan changes nothing"
