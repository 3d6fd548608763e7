"""Whole launches that train, by the command line: whatever MLflow does, exit 0 and the same bytes."""

import logging

import pytest
from in_process_launch import NUM_UPDATES, Place
from run_artefacts import artefacts
from tracked_run import check_runs, found_runs

from orchestrator.plan.model import plan_from_json
from orchestrator.run.holder import is_locked
from orchestrator.run.record import read_record
from workers.training.metrics import MetricsLog

pytestmark = pytest.mark.timeout(300)


class Tracked(Place):
    """A place whose launches need no tracking, and have it at an address."""

    def launch_at(self, uri):
        return self.launch("tracking.required=false", uri=uri)

    def check(self, client):
        """The store is whole, run.json knows its ids, and nothing temporary is left."""
        record = read_record(self.paths)
        by_key = check_runs(client, record.run_id, plan_from_json(record.plan), self.paths)
        assert record.mlflow["run_id"] == by_key["/"].info.run_id
        assert len(record.mlflow["stages"]) == 1
        assert "ensemble/top1_error" in by_key["/"].data.metrics
        assert not list(self.root.rglob(".tmp-*"))
        assert not is_locked(self.paths)


def launch_without(place, proxy):
    """A launch that need not wait long for a store which will not come."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.tracking.tracker.CLOSE_S", 0.5)
        patch.setattr("orchestrator.tracking.tracker.REFUSED_S", 0.3)
        return place.launch_at(proxy.address)


@pytest.mark.slow
def test_launch_with_mlflow_down_from_the_start_ends_alike_and_is_told_later(
    server, proxy, smallest, tmp_path, capsys, caplog
):
    place = Tracked(tmp_path / "run", smallest.shared)
    proxy.refuse()
    with caplog.at_level(logging.WARNING):
        assert launch_without(place, proxy) == 0
    assert "the connection was refused" in caplog.text
    assert "lacks the end of this run" in caplog.text
    assert proxy.paths == []
    assert artefacts(place.paths) == artefacts(smallest.paths)

    proxy.listen()
    assert place.launch_at(proxy.address) == 0
    assert "http" not in capsys.readouterr().out, "MLflow printed among the results"
    place.check(server.client)
    assert artefacts(place.paths) == artefacts(smallest.paths)


@pytest.mark.slow
def test_launch_whose_mlflow_dies_midway_ends_alike_and_is_told_later(server, proxy, smallest, tmp_path, monkeypatch):
    place = Tracked(tmp_path / "run", smallest.shared)
    append = MetricsLog.append
    points: list[int] = []

    def append_and_refuse(self, step, epoch, metrics):
        append(self, step, epoch, metrics)
        points.append(step)
        if len(points) == 4:
            proxy.refuse()

    monkeypatch.setattr(MetricsLog, "append", append_and_refuse)
    assert launch_without(place, proxy) == 0
    assert len(points) == NUM_UPDATES
    assert artefacts(place.paths) == artefacts(smallest.paths)
    record = read_record(place.paths)
    before = {found.info.status for found in found_runs(server.client, record.run_id)}
    assert "RUNNING" in before, "the store was there at the start and not at the end"
    known = record.mlflow["run_id"]

    # Still away: run.json keeps what it knows.
    assert launch_without(place, proxy) == 0
    assert read_record(place.paths).mlflow["run_id"] == known
    proxy.listen()
    assert place.launch_at(proxy.address) == 0
    place.check(server.client)
    assert read_record(place.paths).mlflow["run_id"] == known
    assert artefacts(place.paths) == artefacts(smallest.paths)
