"""Prediction by a finished stage: loads its checkpoint and commits the probabilities of each split."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from workers import numerics
from workers.data.export import spread
from workers.data.loading import pixel_statistics
from workers.data.store import Store, only_fold, open_on_node, open_store, stored_split, write_npy
from workers.errors import CheckFailed, Stopped
from workers.inference.ten_crop import TrainedMember, mean_over_crops
from workers.models import build, fill, outline, place, saved_parts_of
from workers.protocol import Normaliser, Numerics, PredictSpec, SplitPredictions
from workers.settings import HELD_OUT, Crops, TrainingSettings
from workers.storage import beat, fence_of, layout, read_finished, read_weights, remove_leftovers, write_json

# 64 at once are 1 % faster for the full-size net in bf16, but take 0.5 GB more.
_IMAGES_AT_ONCE = 32
_NUM_SHOWN, _NUM_NEAREST = 5, 6
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

    def alive(doing: str) -> None:
        if should_stop():
            raise Stopped(f"{spec.member}: stopped while predicting {doing}")
        # A superseded attempt must not beat for its successor.
        check()
        beat(spec.stage_dir)

    for split in spec.splits:
        stored = stored_split(split)
        shape, path = (own.counts[stored], store.num_classes), spec.predictions_dir / layout.probabilities(split)
        blocks = _blocks(member, own, stored, spec, partial(alive, split))
        sha256 = write_npy(path, np.broadcast_to(np.float32(0), shape), check, blocks).sha256
        described = SplitPredictions(
            split=split,
            num_rows=shape[0],
            num_classes=shape[1],
            rows_sha256=own.rows_sha256(stored),
            data_digest=store.digest,
            sha256=sha256,
            checkpoint=member.checkpoint,
            checkpoint_sha256=member.checkpoint_sha256,
        )
        check()
        write_json(spec.predictions_dir / layout.described(split), asdict(described))
        results.append(described)
    if spec.neighbours and (near := _neighbours(member, store, spec, partial(alive, "neighbours"))):
        write_json(spec.predictions_dir / layout.NEIGHBOURS, near)
    return tuple(results)


def _blocks(
    member: TrainedMember, store: Store, split: str, spec: PredictSpec, alive: Callable[[], None]
) -> Iterator[np.ndarray]:
    """Yields the probabilities of a split of `store`, some images at a time: [images, classes] float32."""
    images = store.images(split, whole=True)
    for start in range(0, len(images), _IMAGES_AT_ONCE):
        alive()
        block = [images[index] for index in range(start, min(start + _IMAGES_AT_ONCE, len(images)))]
        yield _finite(partial(mean_over_crops, member, block, spec.crops), spec.member, store, split, start)


def _neighbours(member: TrainedMember, store: Store, spec: PredictSpec, alive: Callable[[], None]) -> dict[str, Any]:
    """Finds the training images nearest to some others in the last hidden layer (Krizhevsky et al. 2012, figure 4).

    Returns nothing, and logs a line, if that layer is not a fully connected one that sees each image once.
    """
    split = next((each for each in reversed(HELD_OUT) if each in spec.splits), "")
    shown, compared = spread(store.counts.get(split, 0), _NUM_SHOWN), spread(store.counts["train"], spec.neighbours)
    wanted = [*((split, row) for row in shown), *(("train", row) for row in compared)]
    layer, modules = outline(member.settings.model, store.num_classes).head, dict(member.model.named_modules())
    # Each half of a net on two devices reads the whole hidden layer.
    last = modules.get(layer, modules.get(f"first.{layer}"))
    images, seen = {of: store.images(of) for of in (split, "train")}, list[Tensor]()
    if shown and isinstance(last, nn.Linear):
        with last.register_forward_pre_hook(
            lambda _, given: seen.extend(each for one in given[:1] for each in one.float().cpu())
        ):
            for start in range(0, len(wanted), _IMAGES_AT_ONCE):
                alive()
                block = [images[of][row] for of, row in wanted[start : start + _IMAGES_AT_ONCE]]
                mean_over_crops(member, block, Crops.centre)
    if len(seen) != len(wanted):
        _log.info("no nearest training images: %s is no fully connected layer that sees each image once", layer)
        return {}
    features, names, labels = torch.stack(seen).flatten(1), store.rows("train"), store.labels("train")
    assert labels is not None, "train has labels"
    distances = torch.cdist(features[: len(shown)], features[len(shown) :], compute_mode="donot_use_mm_for_euclid_dist")
    found = []
    for row, own in zip(shown, distances.numpy(), strict=True):
        near = ((compared[place], float(own[place])) for place in np.argsort(own, kind="stable")[:_NUM_NEAREST])
        found.append({"row": row, "nearest": [(at, names[at], int(labels[at]), far) for at, far in near]})
    about = {"of": [store.digest, member.checkpoint_sha256], "split": split, "layer": layer}
    return {**about, "num_compared": len(compared), "images": found}


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
