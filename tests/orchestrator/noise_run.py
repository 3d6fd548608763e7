"""A finished run of two tiny nets on noise, trained in a second: to predict images with."""

from dataclasses import replace
from typing import Any

import numpy as np
from fake_stages import make_plan, make_record, make_spec, make_stage
from PIL import Image
from record_committed import record_committed

import septet
from orchestrator.config.schema import CombineConfig, CombineMethod, SubmissionConfig
from orchestrator.outputs import write_results
from orchestrator.run.paths import RunPaths
from orchestrator.run.record import write_record
from workers.data.export import export
from workers.data.store.preparation import prepare
from workers.data.store.store import open_store
from workers.inference.prediction import predict as predict_splits
from workers.protocol import Numerics, PredictSpec
from workers.settings.dataset import DatasetSettings, Source
from workers.settings.model import ModelSettings
from workers.settings.training import Crops, OptimizerSettings, ScheduleSettings
from workers.storage.finished import write_finished
from workers.training.stage import run_stage

MEMBERS = ("b", "a")
SETTINGS: dict[str, Any] = {
    "model": ModelSettings(input_size=16, width=0.05, conv1_kernel=3, conv1_stride=1, conv1_padding=1, fc_units=16),
    "optimizer": OptimizerSettings(lr=0.02, batch_size=32),
    "schedule": ScheduleSettings(epochs=1),
}


def noise(path, seed, bright):
    path.parent.mkdir(parents=True, exist_ok=True)
    low = 128 if bright else 0
    pixels = np.random.default_rng(seed).integers(low, low + 128, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def _train_and_predict(paths, stage, store, crops):
    spec = make_spec(paths.stage(stage.ref), stage, store)
    write_finished(spec.stage_dir, stage.hash, run_stage(spec, lambda: False))
    predict_splits(predict_spec_of(paths, stage, store, paths.predictions(spec.member), crops), lambda: False)


def predict_spec_of(paths, stage, store, folder, crops=Crops.ten):
    splits = ("dev", "val", "test")
    where = paths.stage(stage.ref)
    return PredictSpec(stage.ref.member, where, store, folder, splits, stage.recipe, Numerics(), crops=crops)


def write_noise(root):
    """Writes dark and bright noise, 20 training images each, and five test images."""
    for index in range(20):
        noise(root / "train" / "bright" / f"{index}.png", index, bright=True)
        noise(root / "train" / "dark" / f"{index}.png", 100 + index, bright=False)
    for index in range(5):
        noise(root / "test" / f"{index}.png", 200 + index, bright=bool(index % 2))
    return root


def predicted(run, images):
    """What `septet.predict`, in Python, says of images, with both classes of each."""
    return septet.predict(run, images, 2, lambda line: None)


def finished_run(images, tmp_path_factory, keep, crops, members=MEMBERS, recipe=SETTINGS, size=18):
    """Trains `members` on a folder of two classes, in this process, and combines them geometrically."""
    paths = RunPaths(tmp_path_factory.mktemp("runs") / "run")
    settings = DatasetSettings(source=Source.folder, root=str(images), size=size, keep=keep)
    store = open_store(prepare(settings, tmp_path_factory.mktemp("store")))
    stages = tuple(
        make_stage(f"{member}/train", images=30, num_classes=2, seed=ord(member), **recipe) for member in members
    )
    plan = make_plan(*stages, classes=store.classes)
    export(store, paths.data)
    for stage in stages:
        _train_and_predict(paths, stage, store.path, crops)
    stores = {"target": str(store.path)}
    record = make_record(plan, data_digests={"target": store.digest}, stores=stores)
    write_record(paths, replace(record, crops=crops))
    record_committed(paths, plan)
    write_results(paths, plan, CombineConfig(CombineMethod.geometric), SubmissionConfig())
    return paths
