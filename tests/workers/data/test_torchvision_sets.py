"""torchvision's own data sets: files in their real layout, read, held out, packed; what is said where they lack."""

import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from workers.data.prepare import prepare
from workers.data.sources import open_listing, survey
from workers.data.store import open_store
from workers.errors import DataError
from workers.settings import DatasetSettings, Source

NAMES = ("airplane", "automobile", "bird")
IN_A_BATCH = 12


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-10's files with few images; torchvision's checksums are those of these files."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    generator = np.random.default_rng(0)

    def write(name: str, content: object) -> tuple[str, str]:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return name, hashlib.md5(data, usedforsecurity=False).hexdigest()

    def batch(name: str) -> tuple[str, str]:
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
    return DatasetSettings(**{**values, "download": False, **others})  # type: ignore[arg-type]


def test_store_holds_the_files_pixels_in_torchvision_s_classes(cifar: Path, tmp_path: Path) -> None:
    store = open_store(prepare(settings(cifar), tmp_path / "stores"))
    assert store.classes == NAMES
    assert sum(store.counts.values()) == 6 * IN_A_BATCH
    assert store.counts["test"] == IN_A_BATCH
    theirs = datasets.CIFAR10(cifar, train=False)
    assert np.array_equal(store.images("test"), theirs.data)
    assert store.labels("test").tolist() == theirs.targets  # type: ignore[union-attr]
    assert store.rows("test")[:2] == ["test-000000", "test-000001"]


def test_splits_share_no_image_and_survey_tells_their_counts(cifar: Path, tmp_path: Path) -> None:
    store = open_store(prepare(settings(cifar), tmp_path / "stores"))
    contents = [bytes(one) for split in ("train", "dev", "val", "test") for one in store.contents(split)]
    assert len(set(contents)) == len(contents)
    assert min(store.counts.values()) > 0
    assert survey(settings(cifar)).counts == store.counts


def test_training_image_that_test_holds_too_is_left_out(cifar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = open_listing(settings(cifar))
    parts = listing.parts  # type: ignore[attr-defined]
    parts["train"].images[7] = parts["test"].images[0]
    rows = listing.rows(lambda _done, _total: None)
    assert [one.path for one in rows.left_out] == ["train/7"]
    assert sum(len(rows.splits[split]) for split in ("train", "dev", "val")) == 5 * IN_A_BATCH - 1


def test_absent_files_are_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="CIFAR10 is not there, or damaged") as caught:
        open_listing(settings(tmp_path))
    assert "\n" not in str(caught.value)


def mnist(root: Path, num_train: int = 30, num_test: int = 10) -> Path:
    """Writes MNIST's unpacked files; gives the file of training images."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for part, number in (("t10k", num_test), ("train", num_train)):
        images = folder / f"{part}-images-idx3-ubyte"
        pixels = generator.integers(0, 256, (number, 28, 28), dtype=np.uint8)
        images.write_bytes(struct.pack(">4I", 0x803, number, 28, 28) + pixels.tobytes())
        labels = struct.pack(">2I", 0x801, number) + bytes(index % 10 for index in range(number))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    return images


def test_grey_digits_become_three_equal_channels(tmp_path: Path) -> None:
    mnist(tmp_path)
    store = open_store(prepare(settings(tmp_path, name="MNIST", size=28), tmp_path / "stores"))
    assert store.classes[:2] == ("0 - zero", "1 - one")
    theirs = datasets.MNIST(tmp_path, train=False).data.numpy()
    assert np.array_equal(store.images("test"), np.stack([theirs] * 3, axis=-1))


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00\x00\x08\x03", struct.pack(">4I", 0x803, 1, 28, 28) + bytes(784), bytes(16)],
    ids=["empty", "cut in its head", "fewer images than labels", "no head"],
)
def test_damaged_digits_are_told_in_one_line(tmp_path: Path, content: bytes) -> None:
    mnist(tmp_path).write_bytes(content)
    with pytest.raises(DataError, match="MNIST is not there, or damaged") as caught:
        open_listing(settings(tmp_path, name="MNIST"))
    assert "\n" not in str(caught.value)


def test_download_that_fails_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError("connection refused")

    monkeypatch.setattr(datasets.CIFAR10, "download", refused)
    with pytest.raises(DataError, match=r"CIFAR10 cannot be downloaded \(connection refused"):
        open_listing(settings(tmp_path, download=True))


@pytest.mark.parametrize(("name", "words"), [("CIFAR1O", "did you mean CIFAR10"), (None, "known: CIFAR10")])
def test_unknown_name_is_refused_with_the_nearest(tmp_path: Path, name: str | None, words: str) -> None:
    with pytest.raises(DataError, match=words):
        open_listing(settings(tmp_path, name=name))


def test_missing_root_is_refused() -> None:
    with pytest.raises(DataError, match="root: missing"):
        open_listing(DatasetSettings(source=Source.torchvision, name="CIFAR10"))
