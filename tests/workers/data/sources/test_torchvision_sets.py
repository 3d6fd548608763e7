"""torchvision's own data sets: files in their real layout, read, held out, packed; what is said where they lack."""

import bz2
import hashlib
import pickle
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from listed import refusal, store_of
from scipy.io import savemat
from torchvision import datasets

from workers.data.sources import open_listing
from workers.data.survey import survey
from workers.settings import DatasetSettings, Source

NAMES = ("airplane", "automobile", "bird")
IN_A_BATCH = 12


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """CIFAR-10's files with few images; torchvision's checksums are those of these files."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    generator = np.random.default_rng(0)

    def write(name, content):
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return name, hashlib.md5(data, usedforsecurity=False).hexdigest()

    def batch(name):
        pixels = generator.integers(0, 256, (IN_A_BATCH, 3072), dtype=np.uint8)
        return write(name, {"data": pixels, "labels": [index % 3 for index in range(IN_A_BATCH)]})

    train = [batch(f"data_batch_{number}") for number in range(1, 6)]
    test = [batch("test_batch")]
    meta = write("batches.meta", {"label_names": list(NAMES)})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [list(one) for one in train])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [list(one) for one in test])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})
    return tmp_path


def settings(root: Path, **others: object) -> DatasetSettings:
    values: dict[str, object] = {"source": Source.torchvision, "name": "CIFAR10", "root": str(root), "size": 32}
    return DatasetSettings(**{**values, "download": False, **others})


def test_store_holds_the_files_pixels_in_torchvision_s_classes(cifar, tmp_path):
    store = store_of(settings(cifar), tmp_path / "stores")
    assert store.classes == NAMES
    assert sum(store.counts.values()) == 6 * IN_A_BATCH
    assert store.counts["test"] == IN_A_BATCH
    assert survey(settings(cifar)).counts == store.counts
    contents = [bytes(one) for split in store.counts for one in store.contents(split)]
    assert len(set(contents)) == len(contents)
    theirs = datasets.CIFAR10(cifar, train=False)
    assert np.array_equal(store.images("test"), theirs.data)
    assert store.labels("test").tolist() == theirs.targets
    assert store.rows("test")[:2] == ["test-000000", "test-000001"]


def test_training_image_that_test_holds_too_is_left_out(cifar, monkeypatch):
    listing = open_listing(settings(cifar))
    parts = listing.parts
    parts["train"].images[7] = parts["test"].images[0]
    rows = listing.rows(lambda _done, _total: None)
    assert [one.path for one in rows.left_out] == ["train/7"]
    assert sum(len(rows.splits[split]) for split in ("train", "dev", "val")) == 5 * IN_A_BATCH - 1


def mnist(root: Path, name: str = "MNIST", parts: tuple[str, str] = ("t10k", "train"), first: int = 0) -> Path:
    """Writes MNIST's unpacked files, or those of a set in its format; gives the file of training images."""
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for part, number in zip(parts, (10, 40), strict=True):
        images = folder / f"{part}-images-idx3-ubyte"
        pixels = generator.integers(0, 256, (number, 28, 28), dtype=np.uint8)
        images.write_bytes(struct.pack(">4I", 0x803, number, 28, 28) + pixels.tobytes())
        labels = struct.pack(">2I", 0x801, number) + bytes(first + index % 10 for index in range(number))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    return images


@dataclass(frozen=True)
class Small:
    """A small set in its files: its classes, and test's images as RGB [N, S, S, 3] uint8 with labels [N]."""

    classes: list[str]
    images: np.ndarray
    labels: list[int]


def digits(name: str, classes: Sequence[str], emnist: str = "", first: int = 0) -> Callable[..., Small]:
    """Writes a set in MNIST's format, whose files count labels from `first`."""

    def write(root: Path, patch: pytest.MonkeyPatch) -> Small:
        parts = (f"emnist-{emnist}-test", f"emnist-{emnist}-train") if emnist else ("t10k", "train")
        mnist(root, name, parts, first)
        patch.setitem(datasets.EMNIST.classes_split_dict, "letters", ["N/A", *"abcdefghij"])
        theirs = getattr(datasets, name)(root, train=False, **({"split": emnist} if emnist else {}))
        return Small(list(classes), grey(theirs.data), [label - first for label in theirs.targets.tolist()])

    return write


def post(root: Path, _patch: pytest.MonkeyPatch) -> Small:
    generator = np.random.default_rng(0)
    for name, number in (("usps.bz2", 40), ("usps.t.bz2", 10)):
        values = generator.uniform(-1, 1, (number, 256))
        lines = [
            f"{1 + index % 10} " + " ".join(f"{place}:{value:.4f}" for place, value in enumerate(row, start=1))
            for index, row in enumerate(values)
        ]
        (root / name).write_bytes(bz2.compress("\n".join(lines).encode()))
    theirs = datasets.USPS(root, train=False)
    return Small(list("0123456789"), grey(theirs.data), list(theirs.targets))


def house_numbers(root: Path, patch: pytest.MonkeyPatch) -> Small:
    generator = np.random.default_rng(0)
    files = {"train": ("train_32x32.mat", 40), "test": ("test_32x32.mat", 10)}
    for name, number in files.values():
        pixels = generator.integers(0, 256, (32, 32, 3, number), dtype=np.uint8)
        # A zero is class 10 in the files.
        labels = np.array([[index % 10 or 10] for index in range(number)], np.uint8)
        savemat(root / name, {"X": pixels, "y": labels})
    patch.setattr(datasets.SVHN, "split_list", {split: ["", name, None] for split, (name, _) in files.items()})
    return Small(list("0123456789"), pixels.transpose(3, 0, 1, 2), [index % 10 for index in range(10)])


def stl(root: Path, patch: pytest.MonkeyPatch) -> Small:
    folder = root / "stl10_binary"
    folder.mkdir()
    generator = np.random.default_rng(0)
    names = ["airplane", "bird", "car"]
    (folder / "class_names.txt").write_text("".join(f"{name}\n" for name in names))
    for split, number in (("train", 18), ("test", 6)):
        pixels = generator.integers(0, 256, (number, 3, 96, 96), dtype=np.uint8)
        (folder / f"{split}_X.bin").write_bytes(pixels.tobytes())
        (folder / f"{split}_y.bin").write_bytes(bytes(1 + index % 3 for index in range(number)))
    for split in ("train", "test"):
        patch.setattr(datasets.STL10, f"{split}_list", [[f"{split}_X.bin", None], [f"{split}_y.bin", None]])
    # Columns come first in the files.
    return Small(names, pixels.transpose(0, 3, 2, 1), [index % 3 for index in range(6)])


def grey(images: object) -> np.ndarray:
    return np.stack([np.asarray(images)] * 3, axis=-1)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("MNIST", digits("MNIST", datasets.MNIST.classes)),
        ("KMNIST", digits("KMNIST", ["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"])),
        ("FashionMNIST", digits("FashionMNIST", datasets.FashionMNIST.classes)),
        ("EMNIST/digits", digits("EMNIST", "0123456789", "digits")),
        ("EMNIST/letters", digits("EMNIST", "abcdefghij", "letters", first=1)),
        ("USPS", post),
        ("SVHN", house_numbers),
        ("STL10", stl),
    ],
)
def test_set_in_memory_has_its_files_pixels_and_labels(tmp_path, monkeypatch, name, write):
    root = tmp_path / "root"
    root.mkdir()
    small = write(root, monkeypatch)
    store = store_of(settings(root, name=name, size=small.images.shape[1]), tmp_path / "stores")
    assert list(store.classes) == small.classes
    assert np.array_equal(store.images("test"), small.images)
    labels = store.labels("test")
    assert labels is not None
    assert labels.tolist() == small.labels
    assert min(store.counts.values()) > 0


def test_classes_file_keeps_those_it_names_under_their_own_rows(tmp_path):
    mnist(tmp_path)
    (tmp_path / "few.txt").write_text("7 - seven\n2 - two\n")
    few = settings(tmp_path, name="MNIST", classes=str(tmp_path / "few.txt"))
    store = store_of(few, tmp_path / "stores")
    assert store.classes == ("2 - two", "7 - seven")
    assert store.rows("test") == ["test-000002", "test-000007"]
    assert store.labels("test").tolist() == [0, 1]
    assert sum(store.counts.values()) == 2 + 8


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00\x00\x08\x03", struct.pack(">4I", 0x803, 1, 28, 28) + bytes(784), bytes(16)],
    ids=["empty", "cut in its head", "fewer images than labels", "no head"],
)
def test_damaged_digits_are_told_in_one_line(tmp_path, content):
    mnist(tmp_path).write_bytes(content)
    assert "MNIST is missing or damaged" in refusal(settings(tmp_path, name="MNIST"))


def test_what_is_not_there_is_told_in_one_line(tmp_path, monkeypatch):
    assert "CIFAR10 is missing or damaged" in refusal(settings(tmp_path))
    assert "did you mean CIFAR10" in refusal(settings(tmp_path, name="CIFAR1O"))
    assert "known: CIFAR10" in refusal(settings(tmp_path, name=None))
    assert "root: missing" in refusal(DatasetSettings(source=Source.torchvision, name="CIFAR10"))
    monkeypatch.setattr(datasets.CIFAR10, "download", Mock(side_effect=OSError("connection refused")))
    assert "CIFAR10 cannot be downloaded (connection refused" in refusal(settings(tmp_path, download=True))
