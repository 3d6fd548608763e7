"""Prediction by a finished stage: loads its checkpoint and commits the probabilities of each split."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch

from workers import numerics
from workers.data.loading import pixel_statistics
from workers.data.store import Store, only_fold, open_on_node, open_store, stored_split, write_npy
from workers.errors import CheckFailed, Stopped
from workers.inference.ten_crop import TrainedMember, mean_over_crops
from workers.models import build, fill, place, saved_parts_of
from workers.protocol import Normaliser, Numerics, PredictSpec, SplitPredictions
from workers.settings import Crops, TrainingSettings
from workers.storage import beat, fence_of, layout, read_finished, read_weights, remove_leftovers, write_json

# 64 at once are 1 % faster for the full-size net in bf16, but take 0.5 GB more.
_IMAGES_AT_ONCE = 32
_log = logging.getLogger(__name__)


def load_member(
    stage_dir: Path, store_path: Path, settings: TrainingSettings, chosen: Numerics, given: Normaliser | None = None
) -> TrainedMember:
    """Loads the checkpoint that the stage's DONE.json names, and the pixel statistics of its training.

    Raises:
        CheckFailed: the weights are not those that DONE.json names.
        StorageError: DONE.json, checkpoint or store cannot be read.
    """
    numerics.apply(chosen)
    store = open_store(store_path)
    finished = read_finished(stage_dir)
    contents = read_weights(stage_dir / layout.CHECKPOINTS / finished.checkpoint)
    if contents.checkpoint.model_sha256 != finished.checkpoint_sha256:
        raise CheckFailed(f"{contents.checkpoint.folder}: its weights are not those that DONE.json names")
    model = build(settings.model, store.num_classes).to(memory_format=torch.channels_last)
    fill(saved_parts_of(model), contents.model)
    place(model, chosen.device)
    model.eval()
    statistics = pixel_statistics(store, settings.augmentation, given).to(chosen.device)
    return TrainedMember(model, statistics, settings, chosen, finished.checkpoint, finished.checkpoint_sha256)


def predict(spec: PredictSpec, should_stop: Callable[[], bool]) -> tuple[SplitPredictions, ...]:
    """Predicts each split and commits `<split>.npy`, then `<split>.json`.

    Raises:
        Stopped: `should_stop` returned true; committed splits stay.
        CheckFailed: a probability is not finite, even when computed again.
        StorageError: the disk is full, or storage fails otherwise.
        Superseded: a newer attempt has replaced this one.
    """
    fence = fence_of(spec.stage_dir, spec.fence)
    fence.enter()
    check = fence.check
    store = open_on_node(spec.store, spec.local_copy, partial(beat, spec.stage_dir))
    own = store if spec.fold is None else only_fold(store, spec.fold)
    if spec.predictions_dir.is_dir():
        remove_leftovers(spec.predictions_dir, check=check)
    member = load_member(spec.stage_dir, store.path, spec.recipe, spec.numerics, spec.normaliser)
    results = []
    for split in spec.splits:
        stored = stored_split(split)
        images = own.images(stored, whole=True)
        probabilities = np.empty((len(images), store.num_classes), dtype=np.float32)
        for start in range(0, len(images), _IMAGES_AT_ONCE):
            if should_stop():
                raise Stopped(f"{spec.member}: stopped while predicting {split}")
            # A superseded attempt must not beat for its successor.
            check()
            beat(spec.stage_dir)
            block_images = [images[index] for index in range(start, min(start + _IMAGES_AT_ONCE, len(images)))]
            compute = partial(mean_over_crops, member, block_images, spec.crops)
            block = _finite(compute, spec.member, own, stored, start)
            probabilities[start : start + len(block)] = block
        path = spec.predictions_dir / layout.probabilities(split)
        sha256 = write_npy(path, probabilities, check).sha256
        described = SplitPredictions(
            split=split,
            num_rows=len(images),
            num_classes=store.num_classes,
            rows_sha256=own.rows_sha256(stored),
            data_digest=store.digest,
            sha256=sha256,
            checkpoint=member.checkpoint,
            checkpoint_sha256=member.checkpoint_sha256,
        )
        check()
        write_json(spec.predictions_dir / layout.described(split), asdict(described))
        results.append(described)
    return tuple(results)


def _finite(compute: Callable[[], np.ndarray], member: str, store: Store, split: str, start: int) -> np.ndarray:
    """Computes probabilities of the images from `start` on, again if any is not finite; raises if still so."""
    block = compute()
    bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
    if len(bad):
        block = compute()
        image = f"{member}: {split}, image {store.rows(split)[start + int(bad[0])]}"
        if not np.isfinite(block).all():
            raise CheckFailed(f"{image}: not finite, even when computed again: inspect it, or give precision=fp32")
        _log.warning("%s: not finite, but finite when computed again: check the hardware", image)
    return block


def predict_images(member: TrainedMember, images: Sequence[np.ndarray], crops: Crops) -> np.ndarray:
    """Predicts prepared images, each [height, width, 3] uint8, and returns [images, classes] float32."""
    # Again, since another run's member may have set this process up for its own.
    numerics.apply(member.numerics)
    blocks = [
        mean_over_crops(member, images[start : start + _IMAGES_AT_ONCE], crops)
        for start in range(0, len(images), _IMAGES_AT_ONCE)
    ]
    return np.concatenate(blocks)
