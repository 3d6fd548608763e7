"""The import-linter contracts of pyproject.toml: the project keeps them, and each reports a breach."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("importlinter", reason="`make check` installs it")

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGES = ("orchestrator", "workers")
CONTRACTS = {
    contract["id"]: contract["name"]
    for contract in tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
}
# Contract by contract: breaches, each a module and a line that is added to it.
BREACHES = {
    "orchestrator": [("orchestrator/plan/build.py", "from orchestrator.launching import launch")],
    "workers": [("workers/storage/fence.py", "from workers.training import run_stage")],
    "data": [("workers/data/sources/csv.py", "from workers.data.store import Store")],
    "circles": [("workers/storage/atomic.py", "from workers.storage.checkpoint import prune")],
    "faces": [
        ("orchestrator/launching.py", "from orchestrator.run.paths import RunPaths"),
        ("workers/training/stage.py", "from workers.data.store.shards import ShardJob"),
    ],
    "kernels": [("workers/kernels/lrn.py", "from workers.kernels import resize")],
    "torch": [("orchestrator/launching.py", "def late():\n    from torch import nn")],
    "light": [("workers/training/stage.py", "from conf import anything")],
    "ray": [("orchestrator/launching.py", "import ray")],
    "mlflow": [("orchestrator/tracking/sender.py", "from mlflow import MlflowClient")],
    "hydra": [("orchestrator/config/schema.py", "if TYPE_CHECKING:\n    from omegaconf import OmegaConf")],
    "matplotlib": [("orchestrator/report/write.py", "import matplotlib.pyplot as plt")],
    "pure": [
        ("orchestrator/plan/schedule.py", "from time import monotonic"),
        ("orchestrator/report/scores.py", "from orchestrator.run import RunPaths"),
    ],
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Copies the two packages and the contracts."""
    folder = tmp_path_factory.mktemp("project")
    for package in PACKAGES:
        shutil.copytree(CHECKOUT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    shutil.copy(CHECKOUT / "pyproject.toml", folder)
    return folder


def broken(project):
    """Returns the ids of the contracts that import-linter reports as broken in `project`."""
    command = "from importlinter.cli import lint_imports_command as run; run()"
    run = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"],
        capture_output=True,
        text=True,
        cwd=project,
        env={"COLUMNS": "200", "PYTHONPATH": str(project)},
    )
    results = dict(re.findall(r"^(.+?) (KEPT|BROKEN)\b", run.stdout, re.MULTILINE))
    assert set(results) == set(CONTRACTS.values()), run.stdout + run.stderr
    found = {id_ for id_, name in CONTRACTS.items() if results[name] == "BROKEN"}
    assert run.returncode == bool(found)
    return found


def test_project_keeps_every_contract(project):
    assert broken(project) == set()


@pytest.mark.parametrize("contract", CONTRACTS)
def test_breach_of_contract_is_reported(contract, project):
    for name, line in BREACHES[contract]:
        path = project / name
        whole = path.read_text()
        path.write_text(f"{whole}\n{line}\n")
        try:
            assert contract in broken(project), line
        finally:
            path.write_text(whole)


def test_new_package_without_a_layer_is_reported(project):
    folder = project / "orchestrator" / "attic"
    folder.mkdir()
    (folder / "__init__.py").touch()
    try:
        assert "orchestrator" in broken(project)
    finally:
        shutil.rmtree(folder)
