"""Makes class folders of generated JPEG files, and stages that train on them, where content does not affect the time.

The images are smooth noise, which compresses and decodes much as a photograph does.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from workers.data.store import prepare
from workers.protocol import Numerics, StageSpec
from workers.settings import (
    DatasetSettings,
    KeptCheckpoint,
    ModelSettings,
    OptimizerSettings,
    Recipe,
    ScheduleSettings,
    Source,
)

FULL_SIZE = ModelSettings()
SMALL = ModelSettings(input_size=56, width=0.33, conv1_kernel=5, conv1_stride=2, fc_units=1024)
_NEVER = 10**9


def class_folders(root: Path, num_train: int, num_classes: int, side: int, num_test: int = 0) -> Path:
    """Writes `train/<class>/*`, one image of each of ten classes below `val/`, and `test/*`."""
    generator = np.random.default_rng(0)
    names = [f"train/c{index % num_classes:05d}/{index:07d}.JPEG" for index in range(num_train)]
    names += [f"val/c{index:05d}/{index:07d}.JPEG" for index in range(min(10, num_classes))]
    names += [f"test/{index:07d}.JPEG" for index in range(num_test)]
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = generator.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC).save(path, quality=90)
    return root


def store(scratch: Path, num_train: int, num_classes: int, side: int) -> Path:
    """Prepares a dataset of generated images at `side` pixels."""
    root = class_folders(scratch / "images", num_train, num_classes, side)
    settings = DatasetSettings(source=Source.folder, root=str(root), size=side, dev_fraction=0.0)
    return prepare(settings, scratch / "stores")


def stage(store_path: Path, stage_dir: Path, model: ModelSettings, batch: int, numerics: Numerics) -> StageSpec:
    """Returns a stage that trains on that store for longer than any benchmark lasts, and saves no checkpoint."""
    return StageSpec(
        member=stage_dir.name,
        stage="train",
        seed=0,
        recipe=Recipe(
            model=model,
            optimizer=OptimizerSettings(lr=0.001, batch_size=batch),
            schedule=ScheduleSettings(epochs=_NEVER),
        ),
        store=store_path,
        stage_dir=stage_dir,
        init_dir=None,
        numerics=numerics,
        checkpoint_updates=_NEVER,
        keep=KeptCheckpoint.last,
        stage_hash="benchmark",
    )


def without_lrn(spec: StageSpec) -> StageSpec:
    """Returns the same stage, in another folder, of a net without LRN."""
    recipe = replace(spec.recipe, model=replace(spec.recipe.model, lrn=False))
    return replace(spec, recipe=recipe, stage_dir=spec.stage_dir.with_name(f"{spec.stage_dir.name}-no-lrn"))
