"""ILSVRC-2012's own files: the same images in every form they come in, labels and ids by the kit, and clear errors."""

import gzip
import io
import json
import re
import shutil
import struct
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ilsvrc_files import (
    KIT,
    Challenge,
    kit_files,
    meta_mat,
    tar_of,
    write_archives,
    write_folder_of_tars,
    write_folders,
    write_kit,
)
from listed import refusal
from pictures import encoded, noise, write_tree
from PIL import Image

from workers.data.export import export
from workers.data.sources import open_listing
from workers.data.store import Store, open_store, prepare
from workers.data.survey import survey
from workers.errors import DataError
from workers.settings import DatasetSettings, OnBad, Source

# By ILSVRC2012_ID: not in the order of their names.
WNIDS = ("n05", "n01", "n09", "n03")
NUM_TRAIN, NUM_VAL, NUM_TEST = 6, 8, 5
WRITERS = (write_archives, write_folders, write_folder_of_tars)


def jpeg(seed: int) -> bytes:
    return encoded(noise(seed, 16, 12), "JPEG")


@pytest.fixture(scope="module")
def challenge():
    train = {wnid: [jpeg(100 * place + index) for index in range(NUM_TRAIN)] for place, wnid in enumerate(WNIDS)}
    val_ids = [3, 1, 4, 2, 2, 4, 1, 3]
    return Challenge(
        WNIDS, train, [jpeg(1000 + n) for n in range(NUM_VAL)], val_ids, [jpeg(2000 + n) for n in range(NUM_TEST)]
    )


def settings(root: Path | str, **others: object) -> DatasetSettings:
    values: dict[str, object] = {"source": Source.ilsvrc, "root": str(root), "size": 8}
    return DatasetSettings(**{**values, **others})


def store_of(root: Path, place: Path, **others: object) -> Store:
    return open_store(prepare(settings(root, **others), place))


@pytest.mark.parametrize("write", WRITERS)
def test_labels_are_ids_less_one_and_rows_in_order(challenge, write, tmp_path):
    store = store_of(write(tmp_path / "root", challenge), tmp_path / "stores")
    assert store.classes == WNIDS
    assert store.class_ids == ("1", "2", "3", "4")
    assert store.rows("val") == [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, NUM_VAL + 1)]
    assert store.labels("val").tolist() == [number - 1 for number in challenge.val_ids]
    assert store.rows("test") == [f"ILSVRC2012_test_{number:08d}.JPEG" for number in range(1, NUM_TEST + 1)]
    assert store.labels("test") is None
    for split in ("train", "dev"):
        labels = store.labels(split)
        assert labels is not None
        assert [row.split("/")[0] for row in store.rows(split)] == [WNIDS[label] for label in labels]
    # The pixels of row n are those of image n.
    for content, pixels in zip(challenge.test, store.images("test"), strict=True):
        square = Image.open(io.BytesIO(content)).convert("RGB").crop((2, 0, 14, 12))
        assert np.abs(np.asarray(square.resize((8, 8)), np.int32) - pixels).mean() < 20


def test_every_form_of_the_files_gives_the_same_digest(challenge, tmp_path):
    stores = [
        store_of(write(tmp_path / str(place), challenge), tmp_path / "stores") for place, write in enumerate(WRITERS)
    ]
    assert len({store.path for store in stores}) == len(WRITERS)
    assert len({store.digest for store in stores}) == 1
    swapped = replace(challenge, val_ids=[1, 3, *challenge.val_ids[2:]])
    assert store_of(write_archives(tmp_path / "swapped", swapped), tmp_path / "stores").digest != stores[0].digest


def test_kit_may_lie_open_in_the_root_and_archives_of_the_task_of_dogs_are_not_looked_at(challenge, tmp_path):
    root = write_folders(tmp_path / "root", challenge)
    expected = open_listing(settings(root)).counts()
    (root / KIT / "data").rename(root / "data")
    shutil.rmtree(root / KIT)
    write_tree(root, {"ILSVRC2012_img_train_t3.tar": b"no tar", "ILSVRC2012_img_test_t3/a": b"x"})
    assert open_listing(settings(root)).classes == WNIDS
    assert open_listing(settings(root)).counts() == expected


def test_files_in_an_object_store_give_the_same_digest(challenge, tmp_path):
    from fsspec.implementations.memory import MemoryFileSystem

    local = write_archives(tmp_path / "root", challenge)
    system = MemoryFileSystem()
    try:
        for path in local.iterdir():
            system.pipe_file(f"/ilsvrc/{path.name}", path.read_bytes())
        remote = open_store(prepare(settings("memory://ilsvrc"), tmp_path / "stores"))
        (tmp_path / "few.txt").write_text("n03\n")
        few = open_listing(settings("memory://ilsvrc", classes=str(tmp_path / "few.txt")))
    finally:
        system.rm("/ilsvrc", recursive=True)
    assert remote.digest == store_of(local, tmp_path / "stores").digest
    assert few.class_ids == ("4",)


def test_counts_are_known_from_headers_and_archives_are_read_in_place(challenge, tmp_path):
    root = write_archives(tmp_path / "root", challenge)
    before = {path: path.read_bytes() for path in root.iterdir()}
    found = survey(settings(root))
    assert found.classes == WNIDS
    assert found.counts == store_of(root, tmp_path / "stores").counts
    assert found.counts == {"train": 4 * (NUM_TRAIN - 1), "dev": 4, "val": NUM_VAL, "test": NUM_TEST}
    assert {path: path.read_bytes() for path in root.rglob("*")} == before
    assert {path.name for path in tmp_path.iterdir()} == {"root", "stores"}


def test_fewer_classes_keep_the_kit_s_ids(challenge, tmp_path):
    root = write_archives(tmp_path / "root", challenge)
    (tmp_path / "few.txt").write_text("n01\nn03 a name\n")
    store = store_of(root, tmp_path / "stores", classes=str(tmp_path / "few.txt"))
    assert (store.classes, store.class_ids) == (("n01", "n03"), ("2", "4"))
    assert store.counts["val"] == 4
    assert store.counts["test"] == NUM_TEST
    export(store, tmp_path / "data")
    assert (tmp_path / "data" / "classes.txt").read_text() == "n01\nn03\n"
    assert json.loads((tmp_path / "data" / "dataset.json").read_bytes())["class_ids"] == ["2", "4"]


def test_classes_left_out_need_no_tar(challenge, tmp_path):
    root = write_folder_of_tars(tmp_path / "root", challenge)
    (root / "ILSVRC2012_img_train" / "n09.tar").unlink()
    (tmp_path / "few.txt").write_text("n01\nn03\n")
    assert len(open_listing(settings(root, classes=str(tmp_path / "few.txt"))).classes) == 2
    with pytest.raises(DataError, match=r"class n09 \(ILSVRC2012_ID 3\) has neither n09.tar nor a folder there"):
        open_listing(settings(root))


def test_another_kit_is_another_store(challenge, tmp_path):
    root = write_archives(tmp_path / "root", challenge)
    first = store_of(root, tmp_path / "stores")
    (tmp_path / "few.txt").write_text("n05\nn01\n")
    few = store_of(root, tmp_path / "stores", classes=str(tmp_path / "few.txt"))
    moved = replace(challenge, wnids=("n03", "n05", "n01", "n09"), val_ids=[4, 2, 1, 3, 3, 1, 2, 4])
    write_kit(root, kit_files(moved.wnids, moved.val_ids))
    again = store_of(root, tmp_path / "stores", classes=str(tmp_path / "few.txt"))
    # The same classes in the same order and the same images: only what the challenge calls them has changed.
    assert again.digest == few.digest
    assert (few.class_ids, again.class_ids) == (("1", "2"), ("2", "3"))
    assert store_of(root, tmp_path / "stores").path != first.path


Change = Callable[[Path], object]


def with_inner(files: dict[str, bytes], size: int | None = None) -> Change:
    return lambda root: (root / "ILSVRC2012_img_train.tar").write_bytes(tar_of(files)[:size])


def with_kit(**changes: bytes) -> Change:
    files = kit_files(WNIDS, [3, 1, 4, 2, 2, 4, 1, 3])
    files |= {name: content for key, content in changes.items() for name in files if key in name}
    return lambda root: write_kit(root, files)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: (root / f"{KIT}.tar.gz").unlink(), "no development kit"),
        (lambda root: (root / "ILSVRC2012_img_train.tar").unlink(), "no ILSVRC2012_img_train.tar, .* or train/"),
        (lambda root: (root / "ILSVRC2012_img_val.tar").unlink(), "no ILSVRC2012_img_val.tar"),
        (with_inner({"n05.tar": jpeg(1) * 20}, 9000), "ILSVRC2012_img_train.tar: truncated"),
        (
            with_inner({f"{wnid}.tar": tar_of({"a.JPEG": jpeg(1)})[:1200] for wnid in WNIDS}),
            r"ILSVRC2012_img_train.tar: n05.tar: truncated",
        ),
        (with_inner({f"{wnid}.tar": tar_of({}) for wnid in WNIDS}), r"n05 \(ILSVRC2012_ID 1\) has no image"),
        (with_inner({"n77.tar": tar_of({"a": b"1"})}), "'n77' is not a low-level synset"),
        (with_kit(ground=b"1\n2\n"), "8 images of val, but the ground truth in .* has 2 lines"),
        (with_kit(ground=b"1\n2\n9\n"), r"line 3: '9' is not an ILSVRC2012_ID in 1…4"),
        (with_kit(ground=b"1\n\n3\n"), r"line 2: ''"),
        (with_kit(meta=b"MATLAB 7.3 MAT-file" * 100), "meta.mat: cannot be read as the kit's synsets"),
        (with_kit(meta=meta_mat(WNIDS)[:-40]), r"meta.mat: .*\(truncated\)"),
        (with_kit(meta=meta_mat(WNIDS, (1, 2, 3, 5))), "IDs from 1 on, without a gap; 4 is missing"),
        (with_kit(meta=meta_mat(WNIDS, (1, 2, 3, 3))), "ILSVRC2012_ID 3 occurs twice"),
        (with_kit(meta=meta_mat(("n1", "n2", "n2"))), "a WNID occurs twice"),
        (with_kit(meta=meta_mat(("n1", "../n2"))), "'../n2' is not a WNID"),
        (lambda root: (root / "ILSVRC2012_img_test.tar").write_bytes(tar_of({"a": b"1"})), "keep one of them"),
        (lambda root: (root / f"{KIT}.tar.gz").write_bytes(b"\x1f\x8bno gzip"), "cannot be read as the kit's archive"),
        (lambda root: write_kit(root, {"a/b": b"1"}), "has no data/meta.mat"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_archives_are_told_in_one_line(challenge, tmp_path, change, words):
    root = write_archives(tmp_path / "root", challenge)
    change(root)
    assert re.search(words, refusal(settings(root)))
    assert {path.name for path in tmp_path.iterdir()} == {"root"}


def in_another_class(root: Path) -> None:
    write_tree(root, {"val/n01/a.txt": b""})
    (root / "val/ILSVRC2012_val_00000001.JPEG").rename(root / "val/n01/ILSVRC2012_val_00000001.JPEG")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: (root / "test/ILSVRC2012_test_00000002.JPEG").unlink(), "test_00000002.JPEG is missing"),
        (lambda root: (root / "val/ILSVRC2012_val_00000008.JPEG").unlink(), "7 images of val, but .* 8 lines"),
        (lambda root: write_tree(root, {"test/other.JPEG": b"1"}), "test/other.JPEG is not named like"),
        (lambda root: write_tree(root, {"test/test/ILSVRC2012_test_00000001.JPEG": b"1"}), "occurs twice"),
        (lambda root: write_tree(root, {"train/n77/a.JPEG": b"1"}), "'n77' is not a low-level synset"),
        (lambda root: shutil.rmtree(root / "train" / "n03"), r"n03 \(ILSVRC2012_ID 4\) has neither"),
        (lambda root: (root / KIT / "data/meta.mat").unlink(), "meta.mat: cannot be read: No such file"),
        (in_another_class, "is in another class than the ground truth's, n09"),
    ],
)
def test_wrong_folders_are_told_in_one_line(challenge, tmp_path, change, words):
    root = write_folders(tmp_path / "root", challenge)
    change(root)
    assert re.search(words, refusal(settings(root)))


def meta_flood(root: Path) -> None:
    packer = zlib.compressobj(9)
    flood = b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush()
    with_kit(meta=meta_mat(WNIDS)[:128] + struct.pack("<II", 15, len(flood)) + flood)(root)


def kit_flood(root: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 600 << 20
    with gzip.open(root / f"{KIT}.tar.gz", "wb", compresslevel=1) as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(600):
            file.write(bytes(1 << 20))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flood", "words", "most"),
    [
        (meta_flood, "too large when unpacked", 300 << 20),
        (kit_flood, "larger than the kit is when unpacked", 400 << 20),
    ],
)
def test_flood_is_refused(challenge, tmp_path, flood, words, most):
    root = write_archives(tmp_path / "root", challenge)
    flood(root)
    tracemalloc.start()
    assert words in refusal(settings(root))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < most


def test_val_that_is_to_be_submitted_loses_no_line(challenge, tmp_path):
    damaged = replace(challenge, val=[challenge.val[0], b"not an image", *challenge.val[2:]])
    root = write_archives(tmp_path / "root", replace(damaged, test=()))
    with pytest.raises(DataError, match=r"val_00000002.JPEG \(not an image\); replace them: without a test"):
        prepare(settings(root, on_bad=OnBad.skip), tmp_path / "stores")
    store = store_of(write_archives(tmp_path / "tested", damaged), tmp_path / "stores", on_bad=OnBad.skip)
    assert store.counts["val"] == NUM_VAL - 1


def test_unreadable_image_inside_an_archive_is_listed(challenge, tmp_path):
    damaged = replace(challenge, train={**challenge.train, "n01": [*challenge.train["n01"], b"not an image", b""]})
    root = write_archives(tmp_path / "root", damaged)
    with pytest.raises(DataError, match=r"n01/n01_106.JPEG \(not an image") as caught:
        prepare(settings(root), tmp_path / "stores")
    assert "n01_107.JPEG (empty file)" in str(caught.value)
