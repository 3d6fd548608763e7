"""A driver without Ray, for tests that kill it: members run one after another in its own process, with real training.

Arguments: the run directory, the store, the tracking database, the folder of the tests' own configuration groups.
"""

import sys
from pathlib import Path

from orchestrator import launch as story
from orchestrator.config import compose
from orchestrator.local_actors import one_slot


def main(run_dir: str, store: str, database: str, groups: str) -> None:
    story.ray_cluster.open_cluster = one_slot  # type: ignore[assignment]
    overrides = [f"run_dir={run_dir}", f"datasets.store={store}", f"tracking.uri=sqlite:///{database}", *OVERRIDES]
    story.launch(compose(overrides, Path(groups)), sys.stderr)


OVERRIDES = (
    "ensemble=two",
    "checkpoint_updates=4",
    "cluster.cpus_per_member=1",
    "precision=fp32",
    # Three updates an epoch: metrics.jsonl then has a point at every update, and the ledger counts exactly.
    "optimizer.batch_size=400",
    "model.width=0.1",
    "model.fc_units=32",
    "ensemble.stages.pretrain.epochs=1",
    "ensemble.stages.finetune.epochs=5",
    "ensemble.stages.train.epochs=6",
)
GROUP = """
members:
  plain: {stages: {train: {dataset: target}}}
  chained:
    model: {num_convs: 6}
    stages:
      pretrain: {dataset: superset}
      finetune: {dataset: target, init_from: pretrain, reset: [fc8]}
"""

if __name__ == "__main__":
    main(*sys.argv[1:])
