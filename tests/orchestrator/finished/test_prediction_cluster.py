"""Predictions on a real Ray cluster of two nodes, of which one dies on the way: the bytes of this machine."""

import os
import sys

import pytest
from noise_run import finished_run, noise, write_noise
from ray_nodes_process import ray_of_nodes

from orchestrator.finished import prediction
from orchestrator.finished.prediction import Asked, predict_as
from workers.errors import ConfigError, DataError
from workers.settings.dataset import Keep
from workers.settings.training import Crops

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        environment = {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": os.pathsep.join(sys.path)}
        with ray_of_nodes(2, tmp_path_factory.mktemp("ray") / "cluster.txt", environment) as found:
            yield found


def test_predictions_on_a_cluster_that_loses_a_node_are_the_same_bytes(nodes, tmp_path, tmp_path_factory, monkeypatch):
    images = write_noise(tmp_path_factory.mktemp("images"))
    run = finished_run(images, tmp_path_factory, Keep.centre, Crops.centre)
    for index in range(90):
        noise(tmp_path / "photos" / f"{index}.png", index, bright=bool(index % 3))
    monkeypatch.setattr(prediction, "_BLOCK_IMAGES", 2)
    monkeypatch.setattr(prediction, "_SAID_EVERY_S", 0.0)
    monkeypatch.chdir(tmp_path)
    lost = []

    def lose_a_node(line):
        if not lost:
            import ray

            # Whose node is lost is lost with it, and this driver's may be any of them.
            nodes.order(f"spare {ray.get_runtime_context().get_node_id()}")
            lost.append(line)

    predict_as(Asked(run, 2, out=tmp_path / "here.csv"), ["photos"], lambda line: None)
    predict_as(Asked(run, 2, out=tmp_path / "there.csv", cluster=nodes.address), ["photos"], lose_a_node)
    assert lost
    assert (tmp_path / "there.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()
    (tmp_path / "photos" / "7.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"photos/7\.png: cannot be read as an image"):
        predict_as(Asked(run, 2, cluster=nodes.address), ["photos"], lambda line: None)
    with pytest.raises(ConfigError, match=r"cluster\.address=127\.0\.0\.1:1: no Ray cluster answers there"):
        predict_as(Asked(run, 2, cluster="127.0.0.1:1"), ["photos/1.png"], lambda line: None)
