"""Bad images from end to end: strict stops with the list, skipping lists them; a test image always keeps its row."""

import csv
import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from one_slot import one_slot
from pictures import encoded, noise
from PIL import Image

from orchestrator import cluster
from orchestrator.cli.program import main
from workers.data.decoding import decoder as decode

SIDE = 32
NUM_CLASSES = 2


def _bomb() -> bytes:
    """A PNG of 30,000 × 30,000 pixels in a few hundred bytes of header and zeros."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1 << 16), 9)),
        (b"IEND", b""),
    ]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _refused() -> Mapping[str, bytes]:
    """Files that cannot be read, by name."""
    jpeg = encoded(noise(1, SIDE, SIDE), "JPEG")
    return {
        "empty.jpg": b"",
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "text.jpg": b"this is no image\n",
        "bomb.png": _bomb(),
        "renamed_tiff.png": encoded(noise(2, SIDE, SIDE), "TIFF"),
        "page.jpg": b"<!doctype html><script>alert(1)</script>",
        "postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n(marker) (w) file closefile\n",
    }


def _decided() -> Mapping[str, bytes]:
    """Files that are read though they are not what they seem, by name."""
    grey16 = Image.fromarray(np.random.default_rng(3).integers(0, 1 << 16, (SIDE, SIDE), dtype=np.uint16))
    return {
        "png.JPEG": encoded(noise(4, SIDE, SIDE), "PNG"),
        "cmyk.jpg": encoded(noise(5, SIDE, SIDE).convert("CMYK"), "JPEG"),
        "grey.jpg": encoded(noise(6, SIDE, SIDE).convert("L"), "JPEG"),
        "deep.png": encoded(grey16, "PNG"),
        "palette.png": encoded(noise(7, SIDE, SIDE).convert("P"), "PNG"),
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of good images; one has every kind of bad ones too, and so has the test split."""
    root = tmp_path / "images"
    for number in range(60):
        split = "val" if number % 3 == 0 else "train"
        path = root / split / "ab"[number % NUM_CLASSES] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(100 + number, SIDE, SIDE).save(path)
    (root / "test").mkdir()
    noise(300, SIDE, SIDE).save(root / "test" / "good.png")
    for name, content in (*_refused().items(), *_decided().items()):
        (root / "train" / "a" / name).write_bytes(content)
        (root / "test" / name).write_bytes(content + b" " if content else b"")
    return root


@pytest.fixture
def words(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A launch of one small member on them."""
    monkeypatch.setattr(cluster, "open_cluster", one_slot)
    monkeypatch.chdir(tmp_path)
    groups = tmp_path / "groups" / "ensemble"
    groups.mkdir(parents=True)
    (groups / "solo.yaml").write_text("members: {solo: {stages: {train: {dataset: target}}}}\n")
    return [
        *("launch", "--config-dir", str(groups.parent), "ensemble=solo", "run_dir=run", "datasets.store=store"),
        *("dataset@datasets.target=folder", f"datasets.target.root={root}", "datasets.target.size=32"),
        *("model=alexnet_32", "model.width=0.05", "model.fc_units=16", "optimizer.batch_size=20"),
        *("augmentation=none", "ensemble.stages.train.epochs=1", "cluster.cpus_per_member=1", "precision=fp32"),
        "submission=probabilities",
    ]


def test_bad_training_images_stop_a_launch_with_the_list_and_leave_no_run(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 3
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("septet: ")]
    for name in _refused():
        assert f"train/a/{name}" in line
    assert not any(name in line for name in _decided())
    assert "on_bad=skip" in line
    assert not (tmp_path / "run").exists()


def test_bad_images_that_are_skipped_are_listed_and_test_images_keep_their_rows(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*words, "datasets.target.on_bad=skip"]) == 0
    (manifest,) = (tmp_path / "store").glob("*/manifest.json")
    told = json.loads(manifest.read_text())
    left_out = {entry["path"] for entry in told["left_out"]}
    assert left_out == {f"train/a/{name}" for name in _refused()}
    assert all(entry["reason"] for entry in told["left_out"])
    with (tmp_path / "run" / "submission" / "submission.csv").open(newline="") as file:
        _, *rows = csv.reader(file)
    assert {row[0] for row in rows} == {"good.png", *_refused(), *_decided()}
    uniform = {row[0] for row in rows if row[1:] == [f"{1 / NUM_CLASSES:.9g}"] * NUM_CLASSES}
    assert uniform == set(_refused())
    said = json.loads((tmp_path / "run" / "submission" / "manifest.json").read_text())
    assert sorted(said["unreadable"]) == sorted(_refused())


def test_bomb_would_be_unpacked_were_its_size_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(decode.BadImage, match="more than the"):
        decode.decode(_bomb(), SIDE)
    # Without a limit the decoder goes on to the pixels, and stops only where their bytes end.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(decode, "_centre_square", lambda image: (_ for _ in ()).throw(OSError("unpacked")))
    with pytest.raises(decode.BadImage, match="unpacked"):
        decode.decode(_bomb(), SIDE)


def test_formats_beyond_the_list_would_be_read_were_there_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    content = _refused()["renamed_tiff.png"]
    with pytest.raises(decode.BadImage, match="TIFF"):
        decode.decode(content, SIDE)
    monkeypatch.setattr(decode, "FORMATS", None)
    assert decode.decode(content, SIDE).pixels.shape == (SIDE, SIDE, 3)
