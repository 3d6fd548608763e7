"""Times a store with as many images as ImageNet: opens it, reads its labels and rows, and draws an epoch's order.

The images are small and all zero, in sparse files: nothing measured here depends on pixels.
"""

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.row import Measure, Row, Settings, Spread, Wanted
from benchmarks.turns import Turns, take_turns
from workers.data.loading import draw_epoch
from workers.data.store import MANIFEST, SCHEMA, Store, digest_of, npy_header, open_store, rows_per_shard
from workers.settings import SPLITS, AugmentationSettings
from workers.storage import Written, sealed, sha256_of

PixelWriter = Callable[[Path, bytes, int], None]
NUM_IMAGES, NUM_CLASSES = 1_300_000, 1000
# As for photographs at 256 pixels, so that there are as many shards; small images would make fewer.
_PHOTOGRAPH = 256
MAX_MEMORY_MB = 300


def write_store(
    folder: Path, num_images: int = NUM_IMAGES, size: int = 2, write_pixels: PixelWriter | None = None
) -> Path:
    """Writes a store of `num_images` images of `size` pixels, all in train, and one image in each other split.

    They are black and take no space on the disk, unless `write_pixels(path, header, num_bytes)` writes them.
    """
    write_pixels = write_pixels or _sparse
    folder.mkdir(parents=True)
    files: dict[str, Written] = {}
    shards = {}
    for split in SPLITS:
        count = num_images if split == "train" else 1
        step = rows_per_shard(count, _PHOTOGRAPH)
        shards[split] = [min(step, count - start) for start in range(0, count, step)]
        for number, in_shard in enumerate(shards[split]):
            write_pixels(
                folder / f"{split}-{number:05d}.images.npy",
                npy_header(in_shard, size, size, 3),
                in_shard * size * size * 3,
            )
        np.save(folder / f"{split}.labels.npy", np.arange(count, dtype=np.int64) % NUM_CLASSES)
        np.save(folder / f"{split}.sizes.npy", np.full((count, 2), 500, np.int32))
        np.save(folder / f"{split}.contents.npy", np.zeros((count, 32), np.uint8))
        names = (f"n{index % NUM_CLASSES:08d}/n{index % NUM_CLASSES:08d}_{index}.JPEG\n" for index in range(count))
        (folder / f"{split}.rows.txt").write_text("".join(names))
    np.save(folder / "mean_image.npy", np.zeros((size, size, 3), np.float32))
    for path in sorted(folder.iterdir()):
        # Of pixels a digest of the name: reading them all would be most of the work.
        pixels = path.name.endswith(".images.npy")
        sha256 = hashlib.sha256(path.name.encode()).hexdigest() if pixels else sha256_of(path)
        files[path.name] = Written(path.stat().st_size, sha256)
    classes = tuple(f"n{number:08d}" for number in range(NUM_CLASSES))
    manifest = {
        "schema": SCHEMA,
        "options": {},
        "format": "raw",
        "size": size,
        "classes": classes,
        "counts": {split: sum(shards[split]) for split in SPLITS},
        "shards": shards,
        "digest": digest_of(classes, files),
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "eigenvalues": [0.1, 0.01, 0.001],
        "eigenvectors": np.eye(3).tolist(),
        "left_out": [],
        "unreadable": {"test": []},
        "decisions": {},
        "class_ids": [],
        "files": {name: asdict(entry) for name, entry in files.items()},
    }
    (folder / MANIFEST).write_bytes(sealed(manifest))
    return folder


def _sparse(path: Path, header: bytes, num_bytes: int) -> None:
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + num_bytes)


def memory_used(store: Store) -> float:
    """Returns MB beyond mapped pages while everything is held that a stage and a submission need from a store.

    That is labels, row ids, an epoch's draws, and every shard mapped, with one of its images read.
    """
    before = anonymous_mb()
    images = store.images("train")
    labels = store.labels("train")
    assert labels is not None
    rows = store.rows("train")
    assert len(images) == len(labels) == len(rows)
    draws = draw_epoch(0, 0, len(images), 0, AugmentationSettings())
    for index in draws.order[:: max(1, len(images) // 5000)].tolist():
        images[index].max()
    return anonymous_mb() - before


def anonymous_mb() -> float:
    """Returns this process's memory without pages of files, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1000


def _open(folder: Path, turns: Turns) -> None:
    turns.play(lambda: open_store(folder))


def _draw(turns: Turns) -> None:
    turns.play(lambda: draw_epoch(0, 0, NUM_IMAGES, 32, AugmentationSettings()))


def _memory(folder: Path, turns: Turns) -> None:
    used = memory_used(open_store(folder))
    while True:
        turns.next(used)


def run(settings: Settings) -> tuple[Row, ...]:
    """Measures the rows; writes about 200 MB first."""
    folder = write_store(settings.scratch / "store")
    readings = take_turns({"open": partial(_open, folder), "draw": _draw}, settings.repeats)
    (memory_mb,) = take_turns({"memory": partial(_memory, folder)}, rounds=1)["memory"]
    title = f"{NUM_IMAGES:,} images"
    timed = {"open": f"opening a store of {title}", "draw": f"drawing an epoch's order, crops and colours of {title}"}
    return (
        *(
            Row(
                name=name,
                unit="s",
                ours=Spread.of(readings[what]).median,
                peer=None,
                limit=None,
                ratio=Spread.of(readings[what]),
                measure=Measure.seconds,
                wanted=Wanted(1.0, at_least=False),
                repeats=settings.repeats,
            )
            for what, name in timed.items()
        ),
        Row(
            name=f"memory beyond mapped pages of a store of {title}",
            unit="MB",
            ours=memory_mb,
            peer=None,
            limit=MAX_MEMORY_MB,
            ratio=Spread.of([memory_mb / MAX_MEMORY_MB]),
            measure=Measure.share,
            wanted=Wanted(1.0, at_least=False),
            repeats=1,
            note="labels, row ids and an epoch's draws held, every shard mapped",
        ),
    )
