"""`make soak`: exported ensembles predict what `septet predict` does, of the digits and of 500 photographs."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from orchestrator.finished.ensemble import LoadedEnsemble
from orchestrator.finished.exporting import export
from orchestrator.run.paths import RunPaths

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]
# All that Septet needs and the exported program does not.
_HIDDEN = ("orchestrator", "workers", "mlflow", "ray", "torchvision", "simplejpeg", "safetensors", "pandas", "scipy")


def _launched(tmp_path, *overrides):
    """A process of its own: Ray keeps how it was first started in one, with a token or without."""
    run, store = tmp_path / "run", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"
    places = (f"run_dir={run}", f"datasets.store={tmp_path / 'store'}", store)
    subprocess.run([sys.executable, "-m", "septet", "launch", *overrides, *places], check=True, capture_output=True)
    return run


def _told(program, files, engine):
    hidden = (*_HIDDEN, "torch" if engine == "onnx" else "onnxruntime")
    code = f"import sys, runpy; sys.modules.update(dict.fromkeys({hidden})); sys.argv.pop(0); "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    argv = [sys.executable, "-I", "-c", code, str(program), *map(str, files), "--engine", engine, "--top", "1000"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True, env={"PATH": os.defpath}).stdout
    return [{one["class"]: one["probability"] for one in each["top"]} for each in json.loads(said)]


def _check(tmp_path, run, files, closest):
    opened = LoadedEnsemble.open(RunPaths(run))
    wanted = opened.predict([opened.read(file) for file in files])[:]
    out = tmp_path / "exported"
    export(RunPaths(run), out, ("torch", "onnx"))
    for engine in ("torch", "onnx"):
        told = _told(out / "predict.py", files, engine)
        found = np.array([[each[name] for name in opened.classes] for each in told])
        away = np.abs(found - wanted).max()
        print(f"{engine}: {len(files)} images, largest difference {away:.2g}")  # noqa: T201
        assert away <= closest
        assert (found.argmax(axis=1) == wanted.argmax(axis=1)).all()


def test_export_of_digits_predicts_every_test_image_alike(tmp_path):
    run = _launched(tmp_path, "precision=fp32")
    images = LoadedEnsemble.open(RunPaths(run)).store.images("test")
    files = [tmp_path / f"{index:03d}.png" for index in range(len(images))]
    for index, file in enumerate(files):
        Image.fromarray(np.asarray(images[index])).save(file)
    assert len(files) == 359
    _check(tmp_path, run, files, 1e-5)


@pytest.mark.parametrize(("precision", "closest"), [("fp32", 1e-5), ("bf16", 1e-2)])
def test_export_on_photographs_predicts_alike(real_images, tmp_path, precision, closest):
    classes = f"datasets.target.classes={real_images / 'target-10.txt'}"
    small = (
        "experiment=tiny_imagenet",
        "ensemble=sweep",
        "sweep.seed=[0,1]",
        "schedule.epochs=6",
        f"precision={precision}",
    )
    run = _launched(tmp_path, *small, f"datasets.target.root={real_images}", classes)
    files = sorted((real_images / "val").rglob("*.JPEG"))[:500]
    assert len(files) == 500
    _check(tmp_path, run, files, closest)
