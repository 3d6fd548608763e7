"""`status` and `submit` load no torch, which alone takes longer than they do."""

import json
import subprocess
import sys

import pytest

from orchestrator.config import compose
from orchestrator.run import RunPaths


@pytest.fixture
def finished(tmp_path, make_run):
    """Makes a finished run and returns its directory."""
    paths: RunPaths = make_run(tmp_path / "run").paths
    paths.config_yaml.write_text(compose([]).yaml)
    return paths.root


def _loads_torch(statement, folder):
    """Says whether a fresh interpreter holds torch after `statement`."""
    run = subprocess.run(
        [sys.executable, "-c", f"import json, sys\n{statement}\nprint(json.dumps('torch' in sys.modules))"],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert run.returncode == 0, run.stderr
    return bool(json.loads(run.stdout.splitlines()[-1]))


def test_status_and_submit_of_a_finished_run_load_no_torch(finished, tmp_path):
    verbs = "\n".join(f"assert main([{verb!r}, {str(finished)!r}]) == 0" for verb in ("status", "submit"))
    assert not _loads_torch(f"from orchestrator.cli.program import main\n{verbs}", tmp_path)
    assert (finished / "submission" / "manifest.json").is_file()


def test_measure_sees_torch_where_a_stage_is_trained(tmp_path):
    assert _loads_torch("import workers.training.stage", tmp_path)
