"""The packed store: a folder of npy and text files that NumPy can read and map.

```
<split>-00000.images.npy   [n, S, S, 3] uint8, RGB; one file for each shard of the split
                           or, with keep=whole, [bytes] uint8: one image after another, each [height, width, 3], and
<split>.shapes.npy         [N, 2] int32: the height and width of each image (also beside JPEGs)
<split>-00000.jpeg.npy     or, in a store of JPEGs: [bytes] uint8, one JPEG after another, and
<split>-00000.offsets.npy  [n + 1] int64: the start of each JPEG in those bytes, and the end of the last
<split>.labels.npy         [N] int64; absent for an unlabelled split
<split>.rows.txt           N lines: the row ids
<split>.sizes.npy          [N, 2] int32: the original's width and height in pixels, 0 × 0 if it cannot be read
<split>.contents.npy       [N, 32] uint8: sha256 of each image's content, from which its split was chosen
<split>.checksums.npy      [N] uint32: a checksum of each image's bytes in its shard (`integrity`)
mean_image.npy             [S, S, 3] float32: the mean of train at each position, on the scale 0…255
train.relabelled.npy       [N] int64: the labels that replace train's, -1 for an image that is left out; only where
                           `relabel` changes some
manifest.json              written last: options, classes, counts, images in each shard, digest, statistics, each file's
                           size and sha256, and the sha256 of all this
```
A split without images has no files. A shard without readable images has files with no images. Two hidden entries belong
to preparation: `.records` (`shards`) and `.verified.json` (`integrity`).
"""

import hashlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from workers.data.decoding import RULES, Rules
from workers.data.store.integrity import damaged_files
from workers.data.store.pixels import Pixels, ShardFiles
from workers.data.store.shards import SHAPES, shard_files, shard_stem
from workers.errors import StorageError
from workers.settings import Exif, Keep, StoreFormat, Verify
from workers.storage import Written, is_sealed, layout, parse_json

MANIFEST = "manifest.json"
MEAN_IMAGE = "mean_image.npy"
RELABELLED = "train.relabelled.npy"
SCHEMA = 5
# Finished runs may still read stores of earlier schemas. They applied no EXIF orientation, and the oldest have no
# checksums and no seal.
_OLDEST, _UNTURNED = 3, 4
_CHECKSUMS = ".checksums.npy"


@dataclass(frozen=True)
class Store:
    """A prepared dataset; opening one reads only its manifest.

    Attributes:
        path: the store's folder.
        digest: sha256 over classes and every file of a split: pixels, labels, rows, sizes, contents.
        classes: names; a label is an index into them.
        size: side of the square images, in pixels; of whole images, the shorter side.
        mean, std: of each channel of train, on the [0, 1] scale; as all statistics, of centre squares.
        eigenvalues: of the RGB covariance of train, largest first.
        eigenvectors: 3 × 3, one eigenvector a column.
        counts: images of each of train, dev, val, test; 0 for an absent split.
        shards: the files of pixels of each split.
        left_out: images of the source that are in no split, as {"split", "path", "reason"}.
        decided: the number of images of each decision (`workers.data.decoding`); the manifest lists their paths.
        unreadable_rows: indices of the rows whose image could not be read, by split.
        files: size and sha256 of each file.
        class_ids: the names of the classes in a challenge's submissions; empty without a challenge.
        rules: by which its images were decoded.
        kept: the indices, ascending, of the images that this shows, by split; all of a split that is not named.
    """

    path: Path
    digest: str
    classes: tuple[str, ...]
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    eigenvalues: tuple[float, ...]
    eigenvectors: tuple[tuple[float, ...], ...]
    counts: Mapping[str, int]
    shards: Mapping[str, tuple[ShardFiles, ...]]
    left_out: tuple[Mapping[str, str], ...]
    decided: Mapping[str, int]
    unreadable_rows: Mapping[str, tuple[int, ...]]
    files: Mapping[str, Written]
    class_ids: tuple[str, ...]
    rules: Rules = RULES
    kept: Mapping[str, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def keeping(self, kept: Mapping[str, np.ndarray]) -> "Store":
        """Returns the store as if it had those images only: their indices, ascending, by split; all of other splits.

        Its digest and statistics stay those of all images.
        """
        counts = {**self.counts, **{split: len(own) for split, own in kept.items()}}
        within = {split: self.kept[split][own] if split in self.kept else own for split, own in kept.items()}
        return replace(self, kept={**self.kept, **within}, counts=counts)

    def as_given(self) -> "Store":
        """Returns the store of the dataset's own labels and images, before any `relabel`."""
        counts = {split: sum(shard.num_images for shard in shards) for split, shards in self.shards.items()}
        files = {name: written for name, written in self.files.items() if name != RELABELLED}
        return replace(self, kept={}, counts={**self.counts, **counts}, files=files)

    def images(self, *splits: str, whole: bool = False) -> Pixels:
        """Returns [N, S, S, 3] uint8 of the splits in turn, memory-mapped and read-only; absent ones add none.

        Each image is compared with its checksum whenever it is read; a damaged one is a StorageError. Of whole images,
        these are the centre squares; `whole` returns all that is stored, one image at a time.
        """
        shards = [shard for split in splits for shard in self.shards.get(split, ())]
        names = ([f"{split}{kind}" for split in splits] for kind in (_CHECKSUMS, SHAPES))
        checksums, shapes = ([self._load(name) for name in own if name in self.files] for own in names)
        joined = (np.concatenate(arrays) if arrays else None for arrays in (checksums, shapes))
        return Pixels(shards, self.size, *joined, whole=whole, kept=self._kept_of(splits))

    def labels(self, *splits: str) -> np.ndarray | None:
        """Returns [N] int64 in the order of `images`, or None if the splits have no labels or are absent."""
        name_of = {split: layout.labels(split) for split in splits if layout.labels(split) in self.files}
        if RELABELLED in self.files and "train" in name_of:
            name_of["train"] = RELABELLED
        arrays = [self._own(split, name_of[split]) for split in splits if split in name_of]
        return np.concatenate(arrays) if arrays else None

    def rows(self, split: str) -> list[str]:
        """Returns the ids of the split's rows: paths below the split, in code-point order."""
        if self.counts[split] == 0:
            return []
        rows = self.content_of(layout.rows(split)).decode().split("\n")[:-1]
        return [rows[index] for index in self.kept[split]] if split in self.kept else rows

    def sizes(self, split: str) -> np.ndarray:
        """Returns [N, 2] int32, the originals' width and height in pixels; 0 × 0 for an unreadable one."""
        return self._own(split, layout.sizes(split)) if self.counts[split] else np.empty((0, 2), np.int32)

    def contents(self, split: str) -> np.ndarray:
        """Returns [N, 32] uint8, the sha256 of each image's content; equal rows are equal images, in any store."""
        name = f"{split}.contents.npy"
        return self._own(split, name) if self.counts[split] else np.empty((0, 32), np.uint8)

    def mean_image(self) -> np.ndarray:
        """Returns [S, S, 3] float32, the mean of train at each position and channel on the scale 0…255."""
        return self._load(MEAN_IMAGE)

    def unreadable(self, split: str) -> tuple[int, ...]:
        """Returns the indices of the rows whose image could not be read; their pixels are grey."""
        return self.unreadable_rows.get(split, ())

    def rows_sha256(self, split: str) -> str:
        """Returns the sha256 of `<split>.rows.txt`, or of nothing if the split is absent."""
        rows = self.files.get(layout.rows(split))
        if split in self.kept:
            return hashlib.sha256("".join(f"{row}\n" for row in self.rows(split)).encode()).hexdigest()
        return rows.sha256 if rows else hashlib.sha256(b"").hexdigest()

    def content_of(self, name: str) -> bytes:
        """Reads a whole file; raises StorageError if its sha256 is not the manifest's."""
        try:
            content = (self.path / name).read_bytes()
        except OSError as error:
            raise _damaged(self.path, f"{name} cannot be read ({error})") from error
        if hashlib.sha256(content).hexdigest() != self.files[name].sha256:
            raise _damaged(self.path, f"the sha256 of {name} differs from {MANIFEST}")
        return content

    def _kept_of(self, splits: Sequence[str]) -> np.ndarray | None:
        """Returns the indices of the images that are kept of the splits in turn; None if all are."""
        if not set(splits) & set(self.kept):
            return None
        sizes = [sum(shard.num_images for shard in self.shards.get(split, ())) for split in splits]
        starts = [0, *accumulate(sizes)]
        own = [self.kept.get(split, np.arange(size)) for split, size in zip(splits, sizes, strict=True)]
        return np.concatenate([start + each for start, each in zip(starts, own, strict=False)])

    def _own(self, split: str, name: str) -> np.ndarray:
        """Returns a file's rows, of the images that are kept."""
        rows = self._load(name)
        return rows[self.kept[split]] if split in self.kept else rows

    def _load(self, name: str) -> np.ndarray:
        content = self.content_of(name)
        try:
            loaded: np.ndarray = np.load(io.BytesIO(content), allow_pickle=False)
        except ValueError as error:
            raise _damaged(self.path, f"{name} cannot be read ({error})") from error
        return loaded


def open_store(path: Path) -> Store:
    """Opens a prepared store and compares the size of every file with its manifest.

    Raises:
        StorageError: the store is missing or damaged.
    """
    store = read_store(path)
    for name in damaged_files(path, store.files, Verify.never):
        raise _damaged(path, f"{name} is missing or has another size than {store.files[name].size} bytes")
    return store


def read_store(path: Path) -> Store:
    """Reads a store's manifest; its files may be damaged or missing.

    Raises:
        StorageError: the manifest is missing or damaged.
    """
    try:
        data = (path / MANIFEST).read_bytes()
        manifest: dict[str, Any] = parse_json(data)
    except FileNotFoundError as error:
        absent = f"{path}: no prepared dataset there; launch again to make it, on storage that all nodes share"
        raise StorageError(absent) from error
    except (OSError, ValueError) as error:
        raise _damaged(path, f"{MANIFEST} cannot be read ({error})") from error
    try:
        if manifest["schema"] > _OLDEST and not is_sealed(data, manifest):
            raise _damaged(path, f"{MANIFEST} differs from its own sha256")
        return _from_manifest(path, manifest)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _damaged(path, f"{MANIFEST} lacks {error}") from error


def _from_manifest(path: Path, manifest: dict[str, Any]) -> Store:
    if manifest["schema"] not in range(_OLDEST, SCHEMA + 1):
        raise _damaged(path, f"{MANIFEST} has schema {manifest['schema']}, not {SCHEMA}")
    options, decided = manifest["options"], Counter[str]()
    for by_decision in manifest["decisions"].values():
        decided.update({decision: len(paths) for decision, paths in by_decision.items()})
    exif = Exif.ignore if manifest["schema"] <= _UNTURNED else Exif(options.get("exif", RULES.exif))
    store = Store(
        path=path,
        digest=manifest["digest"],
        classes=tuple(manifest["classes"]),
        size=manifest["size"],
        mean=tuple(manifest["mean"]),
        std=tuple(manifest["std"]),
        eigenvalues=tuple(manifest["eigenvalues"]),
        eigenvectors=tuple(tuple(row) for row in manifest["eigenvectors"]),
        counts=manifest["counts"],
        shards={
            split: split_shards(path, split, StoreFormat(manifest["format"]), counts)
            for split, counts in manifest["shards"].items()
        },
        left_out=tuple(manifest["left_out"]),
        decided=dict(decided.most_common()),
        unreadable_rows={
            split: tuple(entry["index"] for entry in entries) for split, entries in manifest["unreadable"].items()
        },
        files={name: Written(**entry) for name, entry in manifest["files"].items()},
        class_ids=tuple(manifest["class_ids"]),
        rules=Rules(exif, options.get("max_pixels", RULES.max_pixels), Keep(options.get("keep", RULES.keep))),
    )
    left_out = manifest.get("relabel_leaves_out")
    return store.keeping({"train": np.delete(np.arange(store.counts["train"]), left_out)}) if left_out else store


def split_shards(folder: Path, split: str, store_format: StoreFormat, counts: Sequence[int]) -> tuple[ShardFiles, ...]:
    """Returns the files of a split's shards with `counts` images each."""
    return tuple(
        shard_files(folder, shard_stem(split, number), store_format, count) for number, count in enumerate(counts)
    )


def _damaged(path: Path, what: str) -> StorageError:
    return StorageError(f"{path}: the prepared dataset is damaged: {what}; delete the folder, then run it again")


def digest_of(classes: tuple[str, ...], files: Mapping[str, Written]) -> str:
    """Returns one sha256 for a dataset, from its classes and the sha256 of each split's files.

    Statistics and checksums are left out because they follow from the pixels.
    """
    own = sorted(name for name in files if name != MEAN_IMAGE and not name.endswith(_CHECKSUMS))
    lines = [*classes, "", *(f"{name} {files[name].sha256}" for name in own)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
