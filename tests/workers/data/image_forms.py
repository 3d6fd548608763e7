"""The same images as a folder, as a csv file, in tar shards and in parquet files."""

import csv
import io
import json
import shutil
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

SPLITS = ("train", "val", "test")
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@dataclass(frozen=True)
class Image:
    """One image: its path below the split, its class ("" in an unlabelled test), its bytes."""

    name: str
    label: str
    content: bytes


def images_of(folder: Path) -> dict[str, list[Image]]:
    """What a folder in the plain layout holds."""

    def read(split: str) -> list[Image]:
        files = sorted(path for path in (folder / split).rglob("*") if path.is_file())
        names = [path.relative_to(folder / split) for path in files]
        return [
            Image(str(name), str(name.parent) if len(name.parts) > 1 else "", path.read_bytes())
            for name, path in zip(names, files, strict=True)
        ]

    return {split: read(split) for split in SPLITS}


def as_csv(folder: Path, root: Path) -> Path:
    """Ids are whole paths below the split's folder; the test has no labels."""
    shutil.copytree(folder, root)
    for split, images in images_of(folder).items():
        lines = [[image.name, image.label] if split != "test" else [image.name] for image in images]
        with (root / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["id", "label"] if split != "test" else ["id"], *lines])
    return root


def as_shards(folder: Path, root: Path, shards: int = 2) -> Path:
    """Samples dealt out to shards in turn, so that no shard holds a range of names."""
    root.mkdir()
    for split, images in images_of(folder).items():
        for index in range(shards):
            write_shard(root / f"{split}-{index:04d}.tar", sample_members(images[index::shards]))
    return root


def sample_members(images: Iterable[Image]) -> list[tuple[str, bytes]]:
    """Each image, and its class beside it."""
    members = []
    for image in images:
        members.append((image.name, image.content))
        if image.label:
            members.append((f"{image.name.rsplit('.', 1)[0]}.cls", image.label.encode()))
    return members


def write_shard(path: Path, members: Iterable[tuple[str, bytes]], others: Iterable[tarfile.TarInfo] = ()) -> Path:
    """A tar file with those files, and others that hold no bytes."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in others:
            tar.addfile(info)
    return path


def as_parquet(folder: Path, root: Path, files: int = 2, rows_a_group: int = 7) -> Path:
    """The Hugging Face layout: labels are numbers, whose names the schema tells."""
    (root / "data").mkdir(parents=True)
    images = images_of(folder)
    names = sorted({image.label for image in images["train"]})
    for split, word in zip(SPLITS, ("train", "validation", "test"), strict=True):
        for index in range(files):
            path = root / "data" / f"{word}-{index:05d}-of-{files:05d}.parquet"
            write_parquet(path, images[split][index::files], names, rows_a_group)
    return root


def write_parquet(path: Path, images: Iterable[Image], names: list[str], rows_a_group: int = 7) -> Path:
    """A file as the Hugging Face library writes it; images without a class get -1."""
    images = tuple(images)
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    told = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema([("image", IMAGE), ("label", pa.int64())], metadata=told)
    columns: Mapping[str, object] = {
        "image": pa.array([{"bytes": image.content, "path": image.name} for image in images], IMAGE),
        "label": pa.array([names.index(image.label) if image.label else -1 for image in images], pa.int64()),
    }
    parquet.write_table(pa.table(columns, schema=schema), path, row_group_size=rows_a_group)
    return path
