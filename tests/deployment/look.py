"""In a launch's container: does MLflow hold what the run directory says? `python look.py RUN_DIR` prints its artifacts.

It prints one JSON object: `address` of the artifacts, and `artifacts`, the sha256 of each as MLflow hands it out.
"""

import hashlib
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / name) for name in ("faults", "orchestrator", "shared")]

from mlflow import MlflowClient  # noqa: E402
from tracked_run import found_runs, held, key_of, written  # noqa: E402

from orchestrator.plan.model import plan_from_json  # noqa: E402
from orchestrator.run.paths import RunPaths  # noqa: E402
from orchestrator.run.record import read_record  # noqa: E402

# An update that is computed again after a kill has been sent with the times of its first computation.
TIMES = ("images_per_second", "data_wait")


def points(found):
    """(metric, step, value) of each, without the values that the clock gives."""
    return [(name, step, None if name in TIMES else value) for name, step, value in found]


def parent_of_whole(client, record, paths):
    """The ensemble's run, once all runs are there, ended, and hold what metrics.jsonl says, each point once."""
    plan, runs = plan_from_json(record.plan), found_runs(client, record.run_id)
    wanted = {"/", *(f"{member}/" for member in plan.members), *map(str, plan.by_ref)}
    assert Counter(map(key_of, runs)) == dict.fromkeys(wanted, 1), "runs lacking or made twice"
    assert {run.info.status for run in runs} == {"FINISHED"}
    by_key = {key_of(run): run for run in runs}
    for ref in plan.by_ref:
        assert points(held(client, by_key[str(ref)])) == points(written(paths.metrics(ref))), f"{ref}: points differ"
    return by_key["/"]


def main(run_dir: str) -> None:
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    paths = RunPaths(Path(run_dir))
    parent = parent_of_whole(client, read_record(paths), paths)
    assert "ensemble/top1_error" in parent.data.metrics
    with tempfile.TemporaryDirectory() as folder:
        got = Path(client.download_artifacts(parent.info.run_id, "", folder))
        files = [path for path in got.rglob("*") if path.is_file()]
        digests = {str(path.relative_to(got)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    sys.stdout.write(json.dumps({"address": parent.info.artifact_uri, "artifacts": digests}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
