"""Writes ILSVRC-2012's files in their real layout: archives or folders, and a development kit with its meta.mat."""

import io
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pictures import write_tree
from scipy.io import savemat

KIT = "ILSVRC2012_devkit_t12"
FIELDS = (
    *("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height", "num_train_images"),
)


@dataclass(frozen=True)
class Challenge:
    """What the files hold: WNIDs by ILSVRC2012_ID from 1, the images of each, val's ids, and bytes of images."""

    wnids: tuple[str, ...]
    train: Mapping[str, Sequence[bytes]]
    val: Sequence[bytes]
    val_ids: Sequence[int]
    test: Sequence[bytes]


def tar_of(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def meta_mat(wnids: Sequence[str], numbers: Sequence[int] | None = None) -> bytes:
    """As the kit has it: a column of structs, low-level synsets first, then those above them with later ids."""
    numbers = numbers or range(1, len(wnids) + 1)
    rows = [
        (float(number), wnid, f"name of {wnid}, other", "what it is", 0.0, np.empty((1, 0)), 0.0, 1300.0)
        for number, wnid in zip(numbers, wnids, strict=True)
    ]
    inner = float(max(1000, len(wnids)))
    rows.append((inner + 1, "n00001740", "entity", "all there is", 2.0, np.float64([[1, inner + 2]]), 2.0, 0.0))
    rows.append((inner + 2, "n00002684", "object", "a thing", 1.0, np.float64([[2]]), 1.0, 0.0))
    synsets = np.array(rows, dtype=[(field, object) for field in FIELDS]).reshape(-1, 1)
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": synsets}, do_compression=True)
    return buffer.getvalue()


def kit_files(wnids: Sequence[str], val_ids: Sequence[int]) -> dict[str, bytes]:
    return {
        f"{KIT}/data/meta.mat": meta_mat(wnids),
        f"{KIT}/data/ILSVRC2012_validation_ground_truth.txt": "".join(f"{number}\n" for number in val_ids).encode(),
        f"{KIT}/readme.txt": b"about the kit\n",
    }


def write_kit(root: Path, files: Mapping[str, bytes]) -> None:
    """The kit as its archive."""
    (root / f"{KIT}.tar.gz").write_bytes(b"")
    with tarfile.open(root / f"{KIT}.tar.gz", "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def train_files(challenge: Challenge) -> dict[str, dict[str, bytes]]:
    """File names and contents by WNID."""
    return {
        wnid: {f"{wnid}_{100 + index}.JPEG": content for index, content in enumerate(images)}
        for wnid, images in challenge.train.items()
    }


def numbered(split: str, images: Sequence[bytes]) -> dict[str, bytes]:
    return {f"ILSVRC2012_{split}_{number:08d}.JPEG": content for number, content in enumerate(images, start=1)}


def write_archives(root: Path, challenge: Challenge) -> Path:
    """The archives as they are fetched; members of val and test stand in another order than their names."""
    root.mkdir(parents=True)
    inner = {f"{wnid}.tar": tar_of(files) for wnid, files in sorted(train_files(challenge).items())}
    (root / "ILSVRC2012_img_train.tar").write_bytes(tar_of(inner))
    val = numbered("val", challenge.val)
    (root / "ILSVRC2012_img_val.tar").write_bytes(tar_of(dict(reversed(val.items()))))
    test = {f"test/{name}": content for name, content in numbered("test", challenge.test).items()}
    if test:
        (root / "ILSVRC2012_img_test_v10102019.tar").write_bytes(tar_of(dict(reversed(test.items()))))
    write_kit(root, kit_files(challenge.wnids, challenge.val_ids))
    return root


def write_folders(root: Path, challenge: Challenge) -> Path:
    """Everything unpacked: class folders, flat val and test, the kit's folder."""
    train = {
        f"train/{wnid}/{name}": each for wnid, files in train_files(challenge).items() for name, each in files.items()
    }
    val = {f"val/{name}": content for name, content in numbered("val", challenge.val).items()}
    test = {f"test/{name}": content for name, content in numbered("test", challenge.test).items()}
    return write_tree(root, {**train, **val, **test, **kit_files(challenge.wnids, challenge.val_ids)})


def write_folder_of_tars(root: Path, challenge: Challenge) -> Path:
    """The outer archives unpacked, the classes' tars not; val in class folders, as scripts sort it."""
    train = {f"ILSVRC2012_img_train/{wnid}.tar": tar_of(files) for wnid, files in train_files(challenge).items()}
    val = {
        f"ILSVRC2012_img_val/{challenge.wnids[number - 1]}/{name}": content
        for number, (name, content) in zip(challenge.val_ids, numbered("val", challenge.val).items(), strict=True)
    }
    test = {f"ILSVRC2012_img_test/{name}": content for name, content in numbered("test", challenge.test).items()}
    return write_tree(root, {**train, **val, **test, **kit_files(challenge.wnids, challenge.val_ids)})
