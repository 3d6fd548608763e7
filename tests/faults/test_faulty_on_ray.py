"""One launch on a real Ray whose members fail, diverge, meet a passing NaN: who can goes on, the rest is told."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from launch_faulty import AT, INJECTED
from small_launch import GIVE_UP_S

from orchestrator.run.holder import is_locked
from orchestrator.run.ledger import AttemptEnd, StageState, read_ledger
from orchestrator.run.paths import RunPaths

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SCRIPT = Path(__file__).with_name("launch_faulty.py")
MEMBERS = ("failing", "diverging", "passing", "sound")
SMALL = (
    *("ensemble=faulty", "submission=probabilities", "submission.min_members=2", "cluster.max_failures=1"),
    *("cluster.cpus_per_member=1", "checkpoint_updates=2", "precision=fp32", "optimizer.batch_size=400"),
    *("model.width=0.1", "model.fc_units=32", "ensemble.stages.train.epochs=2"),
)


def test_one_launch_tells_a_failing_a_diverging_and_a_passing_member_apart(tmp_path: Path) -> None:
    groups, injected, paths = tmp_path / "groups", tmp_path / "injected", RunPaths(tmp_path / "run")
    (groups / "ensemble").mkdir(parents=True)
    members = "".join(f"  {name}: {{stages: {{train: {{dataset: target}}}}}}\n" for name in MEMBERS)
    (groups / "ensemble" / "faulty.yaml").write_text(f"members:\n{members}")
    injected.mkdir()
    places = (f"run_dir={paths.root}", f"datasets.store={tmp_path / 'store'}", "--config-dir", str(groups))
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "launch", *places, *SMALL],
        env={
            **os.environ,
            INJECTED: str(injected),
            "PYTHONPATH": os.pathsep.join((str(SCRIPT.parent), *sys.path)),
            "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
        },
        capture_output=True,
        text=True,
        timeout=GIVE_UP_S,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 4, done.stderr
    said = next(line for line in done.stderr.splitlines() if line.startswith("septet:"))
    assert "failing" in said and "diverging" in said and "2 of 4 members" in said
    assert {path.name: path.read_text() for path in injected.iterdir()} == {
        "failing": "xx",
        "diverging": "xx",
        "passing": "x",
    }
    stages = read_ledger(paths.ledger).stages
    outcomes = {name: [one.outcome for one in stages[f"{name}/train"].attempts] for name in MEMBERS}
    assert outcomes == {
        "failing": [AttemptEnd.failed] * 2,
        "diverging": [AttemptEnd.diverged] * 2,
        "passing": [AttemptEnd.diverged, AttemptEnd.done],
        "sound": [AttemptEnd.done],
    }
    assert [one.diverged_at for one in stages["diverging/train"].attempts] == [AT, AT]
    assert stages["passing/train"].passed_nans == (AT,)
    assert stages["failing/train"].state is StageState.failed
    manifest = json.loads((paths.submission / "manifest.json").read_text())
    assert {one["name"] for one in manifest["members"]} == {"passing", "sound"}
    assert {one["member"] for one in manifest["missing"]} == {"failing", "diverging"}
    assert not is_locked(paths)
