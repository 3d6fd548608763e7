"""A real launch logs and registers its models; they answer as `septet predict`, without the run's folder."""

import base64
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow_serving import model_served
from PIL import Image
from sklearn.datasets import load_digits

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

LOADED = """
import json, sys
from pathlib import Path
import mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/digits@champion")
assert model.metadata.signature.inputs.input_names() == ["image"] and model.input_example is not None
found = model.predict(pandas.DataFrame({"image": [Path(name).read_bytes() for name in sys.argv[2:]]}))
print(found.to_json(orient="records"))
"""


class Place:
    """A working directory of launches with its store."""

    def __init__(self, folder):
        self.folder, self.uri = folder, f"sqlite:///{folder}/mlflow.db"
        self.client = MlflowClient(self.uri)

    def run(self, *words, **options):
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, **options)
        assert done.returncode == 0, done.stderr[-2000:]
        return done

    def launch(self, name, *words):
        """Returns the lines about models."""
        given = (
            "experiment=digits",
            "ensemble=sweep",
            f"run_dir={name}",
            f"tracking.uri={self.uri}",
            "precision=fp32",
            *words,
        )
        said = self.run("-m", "septet", "launch", *given, "tracking.register=digits", cwd=self.folder)
        return [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("MLflow")]

    def alias(self):
        return str(self.client.get_model_version_by_alias("digits", "champion").version)

    def counts(self):
        """How many models, versions and values of scores the store has."""
        ids = [one.experiment_id for one in self.client.search_experiments()]
        points = [
            len(self.client.get_metric_history(run.info.run_id, name))
            for run in self.client.search_runs(ids)
            for name in run.data.metrics
            if name.startswith(("test/", "val/"))
        ]
        versions = self.client.search_model_versions("name = 'digits'")
        return len(self.client.search_logged_models(ids)), len(versions), sum(points)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("launches"))


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jpegs")
    for place, digit in enumerate(load_digits().images[:20]):
        Image.fromarray((digit * 15).astype(np.uint8)).convert("RGB").resize((64, 64)).save(folder / f"{place}.jpg")
    return sorted(map(str, folder.iterdir()))


@pytest.fixture(scope="module")
def launched(place):
    """What the launches said: one, the same again, and one of another seed, which is far better."""
    short, long = ("sweep.seed=[0,1]", "schedule.epochs=1"), ("sweep.seed=[5,6]", "schedule.epochs=3")
    first = place.launch("one", *short)
    before = place.counts()
    again = place.launch("one", *short)
    assert place.counts() == before, "nothing doubles"
    return first, again, place.launch("two", *long), place.launch("three", "sweep.seed=[7,8]", "schedule.epochs=1")


def _equal(found, wanted):
    """The same class, and probabilities within 1e-5; `wanted` is what `septet predict --json` said."""
    assert [one["class"] for one in found] == [one["top"][0]["class"] for one in wanted]
    for mine, theirs in zip(found, wanted, strict=True):
        given = [mine["probabilities"][one["class"]] for one in theirs["top"]]
        np.testing.assert_allclose(given, [one["probability"] for one in theirs["top"]], atol=1e-5)


@pytest.fixture
def predicted(place, launched, jpegs):
    said = place.run("-m", "septet", "predict", str(place.folder / "two"), *jpegs, "--json", "--top", "10")
    return json.loads(said.stdout)


def test_launches_log_once_and_the_alias_moves_only_to_the_surely_better(place, launched):
    first, again, better, worse = launched
    assert first == ["MLflow: tracing 3 models", "MLflow: digits version 1 is the champion"]
    assert again == ["MLflow: digits version 1 is the champion"]
    assert better[1:] == ["MLflow: digits version 2 is the champion"]
    assert worse[1].startswith("MLflow: digits version 3: the alias champion stays at version 2: the error would")
    assert place.alias() == "2" and place.counts()[:2] == (9, 3)


def test_champion_answers_as_predict_in_a_process_without_the_run(place, predicted, jpegs, tmp_path):
    away = place.folder / "two"
    hidden = away.rename(place.folder / "hidden")
    try:
        done = place.run("-c", LOADED, place.uri, *jpegs, cwd=tmp_path, env=os.environ | {"PYTHONPATH": ""})
    finally:
        hidden.rename(away)
    _equal(json.loads(done.stdout.splitlines()[-1]), predicted)


def test_mlflow_models_serve_answers_jpegs_as_predict(place, predicted, jpegs, unused_port, tmp_path):
    records = [{"image": base64.b64encode(Path(name).read_bytes()).decode()} for name in jpegs]
    with model_served("models:/digits@champion", unused_port, tmp_path / "log.txt", MLFLOW_TRACKING_URI=place.uri):
        request = urllib.request.Request(
            f"http://127.0.0.1:{unused_port}/invocations",
            json.dumps({"dataframe_records": records}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            _equal(json.load(answer)["predictions"], predicted)
