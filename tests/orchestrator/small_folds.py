"""Launches small runs in folds in the test's own process, without Ray: digits, two folds, one epoch."""

import pytest
from no_tracker import NoTracker
from one_slot import one_slot

from orchestrator import cluster, launching
from orchestrator.cli.program import main

GROUP = """folded: true
members:
  base1: {stages: {train: {dataset: target}}}
  deep1:
    stages:
      first: {dataset: superset}
      second: {dataset: target, init_from: first, reset: [head]}
"""
SMALL = (
    *("model.width=0.05", "model.fc_units=16", "optimizer.batch_size=400", "schedule.epochs=1", "precision=fp32"),
    *("schedule.warmup_updates=0", "folds.k=2", "cluster.cpus_per_member=1", "predict.crops=centre"),
)


def launch(place, *words, run_dir="run", tracker=None):
    group = place / "groups" / "ensemble" / "two.yaml"
    group.parent.mkdir(parents=True, exist_ok=True)
    group.write_text(GROUP)
    here = (f"run_dir={place / run_dir}", f"datasets.store={place / 'store'}", f"--config-dir={place / 'groups'}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "open_cluster", one_slot)
        patch.setattr(launching, "Tracker", lambda *_: tracker or NoTracker())
        named = any(word.startswith("ensemble=") for word in words)
        ensemble = () if named else ("ensemble=two", "datasets.superset.orientations=1")
        return main(["launch", *ensemble, f"tracking.uri=sqlite:///{place}/mlflow.db", *here, *SMALL, *words])
