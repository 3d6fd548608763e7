"""How a launch ends, told by what it leaves; tests/e2e has launches that train."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator import ray_cluster
from orchestrator.cli import main
from orchestrator.config_schema import ClusterConfig
from orchestrator.run_dir import RunPaths
from orchestrator.status import State, read_status
from workers.errors import ClusterLost


@pytest.mark.slow
def test_launch_that_lost_its_cluster_left_the_run_failed_and_not_as_if_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def lost(settings: ClusterConfig) -> Iterator[None]:
        raise ClusterLost("the cluster is gone")
        yield

    monkeypatch.setattr(ray_cluster, "open_cluster", lost)
    monkeypatch.chdir(tmp_path)
    assert main(["launch", "run_dir=run", "datasets.store=store", "ensemble=five"]) == 1
    assert read_status(RunPaths(tmp_path / "run")).state is State.failed
