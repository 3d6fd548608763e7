"""What the webdataset source finds in tar shards, each wrong input with its one line, and that nothing is unpacked."""

import gzip
import json
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from image_forms import write_shard
from listed import refusal, rows_of, store_of
from pictures import encoded, noise

from workers.data.decoding import decode
from workers.data.sources import Row, open_listing
from workers.data.sources.webdataset import index_shard
from workers.data.survey import survey
from workers.settings import DatasetSettings, OnBad, Source

Member = tuple[str, bytes]


def shards(root: Path, **changes: object) -> DatasetSettings:
    return replace(DatasetSettings(source=Source.webdataset, root=str(root), size=8), **changes)


def every_row(settings: DatasetSettings) -> dict[str, Row]:
    splits = rows_of(settings).splits
    return {row.name: row for rows in splits.values() for row in rows}


def by_two(index: int) -> str:
    return str(index % 2)


def samples(count: int, label: Callable[[int], str] = by_two, extension: str = "cls", first: int = 0) -> list[Member]:
    """Members of `count` samples, with labels in the given extension made from the sample's number."""
    return [
        member
        for index in range(first, first + count)
        for member in (
            (f"s{index:03d}.png", encoded(noise(index))),
            (f"s{index:03d}.{extension}", label(index).encode()),
        )
    ]


def test_labels_are_numbers_in_numeric_order(tmp_path):
    write_shard(tmp_path / "train-000.tar", samples(36, lambda index: f"{index % 12}\n"))
    listing = open_listing(shards(tmp_path))
    assert listing.classes == tuple(str(number) for number in range(12))
    rows = every_row(shards(tmp_path))
    assert {name: row.label for name, row in rows.items()} == {f"s{index:03d}.png": index % 12 for index in range(36)}


def test_class_names_keep_numbers_as_indices_whatever_their_order(tmp_path):
    write_shard(tmp_path / "train-000.tar", samples(9, lambda index: str(index % 3)))
    (tmp_path / "names.txt").write_text("zebra\npolar bear\nant\n")
    settings = shards(tmp_path, class_names=str(tmp_path / "names.txt"))
    assert open_listing(settings).classes == ("zebra", "polar bear", "ant")
    assert every_row(settings)["s001.png"].label == 1
    # As editors on Windows save it.
    (tmp_path / "names.txt").write_text("zebra\npolar bear\nant\n", encoding="utf-8-sig")
    assert open_listing(settings).classes == ("zebra", "polar bear", "ant")
    (tmp_path / "kept.txt").write_text("ant\nzebra\n")
    kept = replace(settings, classes=str(tmp_path / "kept.txt"))
    assert open_listing(kept).classes == ("zebra", "ant")
    assert every_row(kept)["s002.png"].label == 1


@pytest.mark.parametrize(
    ("extension", "label"),
    [
        ("json", lambda index: json.dumps({"label": "ab"[index % 2], "caption": "a thing"})),
        ("txt", lambda index: "ab"[index % 2]),
        ("CLS", lambda index: f" {'ab'[index % 2]} \n"),
    ],
)
def test_labels_of_every_kind_are_read(tmp_path, extension, label):
    write_shard(tmp_path / "train-000.tar", samples(6, label, extension))
    assert open_listing(shards(tmp_path)).classes == ("a", "b")


def test_row_is_key_and_extension_with_folders_kept(tmp_path):
    members = []
    for index in range(4):
        members += [(f"./a.b/x{index}.JPEG", encoded(noise(index))), (f"./a.b/x{index}.cls", b"0")]
    # Hidden files, folders and files of other kinds are nobody's sample.
    members += [("./a.b/._x1.jpg", b"x"), (".DS_Store", b"x"), ("./a.b/x1.seg.png", b"x"), ("readme", b"x")]
    write_shard(tmp_path / "train-000.tar", members)
    assert set(every_row(shards(tmp_path))) == {f"a.b/x{index}.JPEG" for index in range(4)}


def test_shards_are_found_by_pattern(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(4):
        members = samples(4, first=4 * number)
        write_shard(tmp_path / "in" / f"part{number:02d}.tar", members)
    settings = shards(tmp_path, train="in/part{00..02}.tar", val="in/*3.tar")
    assert survey(settings).counts["val"] == 4
    assert len(every_row(settings)) == 16
    assert "in/part04.tar: no such file" in refusal(replace(settings, train="in/part{03..04}.tar"))
    assert "only files below the root" in refusal(replace(settings, train="pipe:curl -s x/{00..02}.tar"))
    assert "set datasets.<name>.train to a pattern" in refusal(shards(tmp_path))


WRONG: dict[str, tuple[list[Member], str]] = {
    "two images": ([("k.png", b"1"), ("k.jpg", b"2"), ("k.cls", b"0")], "k has 2 images (k.png and k.jpg)"),
    "twice": ([("k.png", b"1"), ("k.png", b"2"), ("k.cls", b"0")], "k.png occurs twice"),
    "no image": ([("k.cls", b"0")], "k has no image"),
    "no image, label in json": ([("k.json", b'{"label": 0}')], "k has no image"),
    "unknown image": ([("k.jp2", b"1"), ("k.cls", b"0")], "k has no image"),
    "image with a dot in its key": (
        [("k.v1.png", b"1"), ("k.v1.cls", b"0")],
        "k has no image (k.v1.png does not count",
    ),
    "no label": ([("k.png", b"1")], "k.png has no label (.cls, .json, .txt)"),
    "json without a label": ([("k.png", b"1"), ("k.json", b'{"text": "x"}')], "k.png has no label"),
    "json that is none": ([("k.png", b"1"), ("k.json", b"[[[")], "k.png has no label"),
    "long label": ([("k.png", b"1"), ("k.cls", b"x" * (2 << 20))], "too many for a label"),
}


@pytest.mark.parametrize(("members", "expected"), WRONG.values(), ids=WRONG)
def test_broken_sample_is_named(tmp_path, members, expected):
    write_shard(tmp_path / "train-000.tar", samples(8) + members)
    message = refusal(shards(tmp_path))
    assert expected in message and "train-000.tar" in message
    rows = rows_of(shards(tmp_path, on_bad=OnBad.skip))
    (left_out,) = rows.left_out
    assert left_out.path in ("train-000.tar/k", "train-000.tar/k.png") and (
        expected in left_out.reason or left_out.reason == "no label"
    )
    assert sum(len(split) for split in rows.splits.values()) == 8


@pytest.mark.parametrize("word", ["none", "-", "NaN"])
def test_word_for_no_label_among_numbers_is_told_in_train_and_in_test(tmp_path, word):
    write_shard(
        tmp_path / "train-000.tar",
        [*samples(8, lambda index: str(index % 2)), ("k.png", b"1"), ("k.cls", word.encode())],
    )
    assert f"k.png has no label ({word} stands for none)" in refusal(shards(tmp_path))
    assert len(rows_of(shards(tmp_path, on_bad=OnBad.skip)).left_out) == 1
    write_shard(tmp_path / "train-000.tar", samples(8, lambda index: str(index % 2)))
    write_shard(
        tmp_path / "test-000.tar", [("a.png", b"2"), ("a.cls", b"1"), ("k.png", b"1"), ("k.cls", word.encode())]
    )
    assert f"k.png has no label ({word} stands for none)" in refusal(shards(tmp_path))


def test_minus_one_and_one_are_two_classes(tmp_path):
    write_shard(tmp_path / "train-000.tar", samples(8, lambda index: "1" if index % 2 else "-1"))
    assert open_listing(shards(tmp_path)).classes == ("-1", "1")


def test_number_without_a_name_is_refused(tmp_path):
    write_shard(tmp_path / "train-000.tar", samples(6, lambda index: str(index % 3)))
    (tmp_path / "names.txt").write_text("a\nb\n")
    message = refusal(shards(tmp_path, class_names=str(tmp_path / "names.txt")))
    assert "label 2 is none of the 2 classes, 0…1" in message
    (tmp_path / "names.txt").write_text("a\nb\nb\n")
    assert "2 classes are named b" in refusal(shards(tmp_path, class_names=str(tmp_path / "names.txt")))
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\n")
    assert "no image of class d" in refusal(shards(tmp_path, class_names=str(tmp_path / "names.txt")))


@pytest.fixture
def shard(tmp_path):
    (tmp_path / "root").mkdir()
    return write_shard(tmp_path / "root" / "train-000.tar", samples(8))


def test_compressed_shard_is_refused_with_what_to_do(shard):
    shard.write_bytes(gzip.compress(shard.read_bytes()))
    assert "gunzip" in refusal(shards(shard.parent))


def test_headers_of_a_shard_are_read_once(shard):
    before = index_shard.cache_info().misses
    for _ in range(3):
        assert len(every_row(shards(shard.parent))) == 8
    assert index_shard.cache_info().misses == before + 1
    write_shard(shard, samples(9))
    assert len(every_row(shards(shard.parent))) == 9
    assert index_shard.cache_info().misses == before + 2


def test_what_reads_images_is_light_whatever_the_number_of_samples(shard):
    """It is handed to every process that packs."""
    few = len(pickle.dumps(open_listing(shards(shard.parent)).loader()))
    write_shard(shard, samples(300))
    loader = open_listing(shards(shard.parent)).loader()
    assert len(pickle.dumps(loader)) == few
    row = every_row(shards(shard.parent))["s250.png"]
    assert loader.load(row, 8).pixels.tobytes() == decode(encoded(noise(250)), 8).pixels.tobytes()


def _hostile(kind: bytes, name: str, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_hostile_members_are_refused_or_left_out_and_touch_nothing(tmp_path):
    root, marker = tmp_path / "root", tmp_path / "marker.png"
    root.mkdir()
    marker.write_bytes(b"as it was")
    image = encoded(noise(99))
    named = [("../marker.png", image), (str(marker), image), ("a/../../marker.png", image), ("../marker.cls", b"0")]
    hostile = [
        _hostile(tarfile.SYMTYPE, "link.png", str(marker)),
        _hostile(tarfile.SYMTYPE, "s001.cls", str(marker)),
        _hostile(tarfile.LNKTYPE, "hard.png", "../marker.png"),
        _hostile(tarfile.CHRTYPE, "device.png"),
        _hostile(tarfile.FIFOTYPE, "fifo.png"),
        _hostile(tarfile.SYMTYPE, "sub", str(tmp_path)),
        _hostile(tarfile.DIRTYPE, "../made"),
    ]
    write_shard(root / "train-000.tar", samples(8) + named, hostile)
    before = set(tmp_path.rglob("*"))
    assert "s001.cls is a link" in refusal(shards(root))
    settings = shards(root, on_bad=OnBad.skip)
    store = store_of(settings, tmp_path / "stores")
    for path in (store.path, store.path.parent):
        before |= {path, *path.rglob("*")}
    assert set(tmp_path.rglob("*")) == before
    assert marker.read_bytes() == b"as it was"
    reasons = {each["path"]: each["reason"] for each in store.left_out}
    assert len(reasons) == 8
    assert "is a link" in reasons["train-000.tar/link"]
    assert "not a plain file" in reasons["train-000.tar/device"]
    assert "leads out of the archive" in reasons["train-000.tar/a/../../marker"]
    assert "s001.cls is a link" in reasons["train-000.tar/s001"]
    rows = {row for split in ("train", "dev", "val") for row in store.rows(split)}
    assert rows == {f"s{index:03d}.png" for index in range(8) if index != 1}


def test_numbers_written_as_floats_are_integers_and_nan_is_no_label(tmp_path):
    write_shard(tmp_path / "train-000.tar", samples(24, lambda index: f"{index % 11}.0"))
    assert open_listing(shards(tmp_path)).classes == tuple(str(number) for number in range(11))
    write_shard(tmp_path / "train-000.tar", samples(9, lambda index: "nan" if index == 4 else by_two(index)))
    assert "s004.png has no label" in refusal(shards(tmp_path))
    assert [each.path for each in rows_of(shards(tmp_path, on_bad=OnBad.skip)).left_out] == ["train-000.tar/s004.png"]
