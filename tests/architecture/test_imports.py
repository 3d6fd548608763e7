"""Importing the project loads little: the driver starts without torch, Ray or MLflow."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "torchvision", "ray", "mlflow", "matplotlib", "sklearn", "pyarrow", "fsspec", "s3fs", "botocore"}
HEAVY |= {"pandas", "scipy.stats"}


def _loaded(statement):
    """Returns the heavy packages that a fresh interpreter holds after `statement`."""
    code = f"{statement}\nimport sys\nprint(*({HEAVY!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=CHECKOUT)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_measure_itself_sees_a_heavy_import():
    assert _loaded("import matplotlib") == {"matplotlib"}


def test_command_line_imported_loads_nothing_heavy():
    assert _loaded("import orchestrator.cli.program") == set()


@pytest.mark.parametrize(
    "statement",
    [
        "import orchestrator.launching",
        "from orchestrator.outputs import write_results",
        "from orchestrator.fitting import calibrate, choose, mcnemar, member_worth, wilson",
        "from orchestrator.run import list_runs, read_status, status_lines",
        "from orchestrator.verification import explain, verify",
    ],
)
def test_launch_and_verbs_on_finished_runs_load_nothing_heavy_before_they_need_it(statement):
    # A face loads a name at its first use.
    assert _loaded(statement) == set()


@pytest.mark.parametrize(
    "statement",
    [
        "from workers.settings import DatasetSettings, TrainingSettings",
        "from workers.data.sources import open_listing",
        "from workers.models import Outline, outline",
        "from workers.storage import write_json",
        "import workers.errors, workers.protocol",
    ],
)
def test_values_of_workers_imported_load_nothing_heavy(statement):
    assert _loaded(statement) == set()


def test_every_orchestrator_module_imported_leaves_torch_out():
    paths = [path.relative_to(CHECKOUT).with_suffix("") for path in (CHECKOUT / "orchestrator").rglob("*.py")]
    names = [".".join(path.parts) for path in paths if path.name != "__init__"]
    assert len(names) > 50
    assert "torch" not in _loaded("\n".join(f"import {name}" for name in names))
