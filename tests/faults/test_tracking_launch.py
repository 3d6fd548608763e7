"""Whole launches that train, by the command line: whatever MLflow does, exit 0 and the same bytes."""

import hashlib
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tracked_run import MlflowServer, check_runs, found_runs, mlflow_server

from benchmarks.misbehaving_proxy import Proxy, serving_badly
from orchestrator import ray_cluster
from orchestrator.cli import main
from orchestrator.local_actors import one_slot
from orchestrator.plan import from_json
from orchestrator.run_dir import RunPaths, is_locked, read_record
from workers.training.metrics import MetricsLog

pytestmark = pytest.mark.timeout(300)
SETTINGS = (
    "ensemble=sweep",
    "sweep.seed=[3]",
    "cluster.cpus_per_member=1",
    "precision=fp32",
    # Three updates an epoch: metrics.jsonl then has a point at every update.
    "optimizer.batch_size=400",
    "model.width=0.05",
    "model.fc_units=16",
    "ensemble.stages.train.epochs=3",
    "tracking.required=false",
)


@dataclass(frozen=True)
class Place:
    """A run directory, and launches into it with members in threads of this process."""

    root: Path
    store: Path

    @property
    def paths(self) -> RunPaths:
        return RunPaths(self.root)

    def launch(self, uri: str) -> int:
        words = ["launch", f"run_dir={self.root}", f"datasets.store={self.store}", f"tracking.uri={uri}", *SETTINGS]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ray_cluster, "open_cluster", one_slot)
            return main(words)

    def artefacts(self) -> dict[str, str]:
        """sha256 of what a run is for: submission, predictions, final weights."""
        found = [*self.paths.submission.glob("submission.*"), *self.paths.members.glob("*/predictions/*.npy")]
        digests = {str(path.relative_to(self.root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}
        for done in self.paths.members.glob("*/*/DONE.json"):
            digests[str(done.relative_to(self.root))] = json.loads(done.read_text())["checkpoint_sha256"]
        assert len(digests) >= 4
        return digests

    def check(self, client: Any) -> None:
        """The store is whole, run.json knows its ids, and nothing temporary is left."""
        record = read_record(self.paths)
        by_key = check_runs(client, record.run_id, from_json(record.plan), self.paths)
        assert record.mlflow["run_id"] == by_key["/"].info.run_id
        assert len(record.mlflow["stages"]) == 1
        assert "ensemble/top1_error" in by_key["/"].data.metrics
        assert not list(self.root.rglob(".tmp-*"))
        assert not is_locked(self.paths)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with mlflow_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def proxy(server: MlflowServer) -> Iterator[Proxy]:
    with serving_badly(server.port) as started:
        yield started


@pytest.fixture(scope="module")
def undisturbed(server: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("undisturbed")
    place = Place(folder / "run", folder / "store")
    assert place.launch(server.uri) == 0
    place.check(server.client)
    return place


def launch_without(place: Place, proxy: Proxy) -> int:
    """A launch that need not wait long for a store which will not come."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.tracking_runs.CLOSE_S", 0.5)
        patch.setattr("orchestrator.tracking_runs.REFUSED_S", 0.3)
        return place.launch(proxy.address)


def test_launch_with_mlflow_down_from_the_start_ends_alike_and_is_told_later(
    server: MlflowServer,
    proxy: Proxy,
    undisturbed: Place,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    place = Place(tmp_path / "run", undisturbed.store)
    proxy.refuse()
    with caplog.at_level(logging.WARNING):
        assert launch_without(place, proxy) == 0
    assert "nobody listens there" in caplog.text
    assert "the same launch sends them once it answers" in caplog.text
    assert proxy.paths == []
    assert place.artefacts() == undisturbed.artefacts()

    proxy.listen()
    assert place.launch(proxy.address) == 0
    assert "http" not in capsys.readouterr().out, "MLflow printed among the results"
    place.check(server.client)
    assert place.artefacts() == undisturbed.artefacts()


def test_launch_whose_mlflow_dies_midway_ends_alike_and_is_told_later(
    server: MlflowServer,
    proxy: Proxy,
    undisturbed: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = Place(tmp_path / "run", undisturbed.store)
    append = MetricsLog.append
    points: list[int] = []

    def append_and_refuse(self: MetricsLog, step: int, epoch: float, metrics: Any) -> None:
        append(self, step, epoch, metrics)
        points.append(step)
        if len(points) == 4:
            proxy.refuse()

    monkeypatch.setattr(MetricsLog, "append", append_and_refuse)
    assert launch_without(place, proxy) == 0
    assert len(points) == 9
    assert place.artefacts() == undisturbed.artefacts()
    record = read_record(place.paths)
    before = {found.info.status for found in found_runs(server.client, record.run_id)}
    assert "RUNNING" in before, "the store was there at the start and not at the end"
    known = record.mlflow["run_id"]

    # Still away: run.json keeps what it knows.
    assert launch_without(place, proxy) == 0
    assert read_record(place.paths).mlflow["run_id"] == known
    proxy.listen()
    assert place.launch(proxy.address) == 0
    place.check(server.client)
    assert read_record(place.paths).mlflow["run_id"] == known
    assert place.artefacts() == undisturbed.artefacts()
