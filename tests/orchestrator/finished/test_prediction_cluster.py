"""Predictions on a real Ray cluster of two nodes, of which one dies on the way: the bytes of this machine."""

import os
import subprocess
import sys

import pytest
from noise_run import finished_run, noise, write_noise
from ray_nodes_process import ray_of_nodes

from orchestrator.finished import prediction
from orchestrator.finished.prediction import Asked, predict_as
from workers.settings.dataset import Keep
from workers.settings.training import Crops

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]
OPEN = {"RAY_AUTH_MODE": "disabled"}
# A process of its own, since Ray keeps the authentication that it first met. It says which node it is on after each
# block, or what is wrong.
_PREDICT = """
import sys
from pathlib import Path
from orchestrator.finished import prediction
from orchestrator.run.paths import RunPaths
from workers.errors import SeptetError
prediction._BLOCK_IMAGES, prediction._SAID_EVERY_S = 2, 0.0
def say(_):
    import ray
    print(ray.get_runtime_context().get_node_id(), flush=True)
run, cluster, image, out = sys.argv[1:]
try:
    prediction.predict_as(prediction.Asked(RunPaths(Path(run)), 2, out=Path(out), cluster=cluster), [image], say)
except SeptetError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    environment = {**OPEN, "PYTHONPATH": os.pathsep.join(sys.path)}
    with ray_of_nodes(2, tmp_path_factory.mktemp("ray") / "cluster.txt", environment) as found:
        yield found


def predicting(run, cluster, image, out):
    """The process, whose stdout and stderr are one."""
    environment = {**os.environ, **OPEN, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", _PREDICT, str(run.root), cluster, image, str(out)]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_predictions_on_a_cluster_that_loses_a_node_are_the_same_bytes(nodes, tmp_path, tmp_path_factory, monkeypatch):
    images = write_noise(tmp_path_factory.mktemp("images"))
    run = finished_run(images, tmp_path_factory, Keep.centre, Crops.centre)
    for index in range(90):
        noise(tmp_path / "photos" / f"{index}.png", index, bright=bool(index % 3))
    monkeypatch.chdir(tmp_path)
    # Of batches of other sizes, rounding may differ.
    monkeypatch.setattr(prediction, "_BLOCK_IMAGES", 2)
    here, there = tmp_path / "here.csv", tmp_path / "there.csv"
    predict_as(Asked(run, 2, out=here), ["photos"], lambda line: None)
    with predicting(run, nodes.address, "photos", there) as process:
        own = process.stdout.readline().strip()
        assert process.poll() is None and own.isalnum(), own + process.stdout.read()
        # Whose node is lost is lost with it.
        nodes.order(f"spare {own}")
        said = process.stdout.read()
        assert process.wait() == 0, said
    assert there.read_bytes() == here.read_bytes()
    (tmp_path / "photos" / "7.png").write_bytes(b"no image")
    for cluster, image, told in (
        (nodes.address, "photos", "DataError photos/7.png: cannot be read as an image"),
        ("127.0.0.1:1", "photos/1.png", "ConfigError cluster.address=127.0.0.1:1: no Ray cluster answers there"),
    ):
        with predicting(run, cluster, image, tmp_path / "none.csv") as process:
            assert told in process.communicate()[0]
