"""A folder made of every kind of file: each is listed with the right reason, and none does harm."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import bad_files
import numpy as np
import pytest
from listed import folder, store_of
from pictures import encoded, write_tree
from PIL import Image

from workers.data.decoding import decode
from workers.data.decoding.decisions import Decision
from workers.data.store import prepare
from workers.errors import DataError
from workers.settings import DatasetSettings, OnBad

# Pillow looks for a resolution in EXIF, and warns of a damaged one.
pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF")
CHECKOUT = Path(__file__).parents[4]
# What decoding one image may add to a process; the bombs' pixels are 2.7 GB as RGB.
MOST_MB = 120
_BOMBS = """
import sys
from pathlib import Path
from benchmarks.turns import peak_mb
from workers.data.decoding.decoder import BadImage, decode
decode(Path(sys.argv[1]).read_bytes(), 64)
before = peak_mb()
for name in sys.argv[2:]:
    try:
        decode(Path(name).read_bytes(), 64, name)
        print(name, "was read")
    except BadImage as error:
        pass
print(int(peak_mb() - before))
"""


def settings(root: Path, **changes: object) -> DatasetSettings:
    return folder(root, size=16, **{"on_bad": OnBad.skip, **changes})


@pytest.fixture
def every_kind(tmp_path):
    """train/a and test/ hold a file of every kind; train/b and val/ are plain."""
    root = tmp_path / "root"
    write_tree(root, ("train/b/1.png", "train/b/2.png", "val/a/3.png", "val/b/4.png"))
    for name, file in bad_files.files(str(tmp_path / "marker")).items():
        # Trailing bytes make another content, so that train keeps its own; an empty file has to stay empty.
        write_tree(root, {f"train/a/{name}": file.content, f"test/{name}": file.content and file.content + b" "})
    os.mkfifo(root / "train/a/pipe.jpg")
    (root / "train/a/dangling.jpg").symlink_to("nowhere")
    return root


def test_every_decision_is_met_by_a_file():
    met = {decision for file in bad_files.files("marker").values() for decision in file.decisions}
    # No file that an encoder here writes has another colour space; the rest have tests of their own.
    others = {Decision.other_mode, Decision.not_turned, Decision.heif_renamed, Decision.ends_cut}
    assert met == set(Decision) - others


def test_prepare_every_kind_with_skip_lists_each_once_with_its_reason(every_kind, tmp_path):
    before = sorted(path for path in tmp_path.rglob("*"))
    store = store_of(settings(every_kind, dev_fraction=0), tmp_path / "stores")
    manifest = json.loads((store.path / "manifest.json").read_text())
    kinds = bad_files.files("marker")
    refused = {f"train/a/{name}": file.refused for name, file in kinds.items() if file.refused}
    refused |= {"train/a/pipe.jpg": "not a regular file", "train/a/dangling.jpg": "No such file"}
    left_out = {each["path"]: each["reason"] for each in manifest["left_out"]}
    assert left_out.keys() == refused.keys()
    for path, reason in refused.items():
        assert reason in left_out[path], path
    listed = {path: set() for path in (f"train/a/{name}" for name in kinds)}
    for decision, paths in manifest["decisions"]["train"].items():
        for path in paths:
            listed[path].add(decision)
    assert listed == {f"train/a/{name}": set(file.decisions) for name, file in kinds.items()}
    assert store.counts["train"] == len(kinds) - len(refused) + 2 + 2
    assert store.decided[Decision.grey] == 2 * sum(Decision.grey in file.decisions for file in kinds.values())
    for row, pixels in zip(store.rows("train"), store.images("train"), strict=True):
        np.testing.assert_array_equal(pixels, decode((every_kind / "train" / row).read_bytes(), 16).pixels)
    # Nothing was executed, and nothing written but the store.
    assert sorted(path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "stores")) == before


def test_prepare_every_kind_in_test_keeps_every_row(every_kind, tmp_path):
    store = store_of(settings(every_kind), tmp_path / "stores")
    assert store.rows("test") == sorted(bad_files.files("marker"))
    kinds = bad_files.files("marker")
    # With a byte more at its end, what lacked its end has one too much all the same.
    unreadable = {store.rows("test")[index] for index in store.unreadable("test")}
    assert unreadable == {name for name, file in kinds.items() if file.refused}
    assert (store.sizes("test")[list(store.unreadable("test"))] == 0).all()
    assert (np.asarray(store.images("test"))[list(store.unreadable("test"))] == 128).all()


def test_prepare_every_kind_by_default_stops_and_lists_them(every_kind, tmp_path):
    num_bad = 2 + sum(file.refused is not None for file in bad_files.files("marker").values())
    listed = rf"{num_bad} of its images cannot be read: train/a/bomb.bmp .* and {num_bad - 10} more"
    with pytest.raises(DataError, match=listed) as raised:
        prepare(settings(every_kind, on_bad=OnBad.stop), tmp_path / "stores")
    assert "\n" not in str(raised.value) and "on_bad=skip" in str(raised.value)
    assert not (tmp_path / "stores").exists()


def test_decompression_bombs_take_little_memory(tmp_path):
    write_tree(tmp_path, ["plain.png"])
    bombs = {f"{side}_{name}": each for side in (30_000, 65_000) for name, each in bad_files.bombs(side).items()}
    assert max(map(len, bombs.values())) < 500_000
    write_tree(tmp_path, bombs)
    asked = subprocess.run(
        [sys.executable, "-c", _BOMBS, *(tmp_path / name for name in ("plain.png", *bombs))],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )
    assert int(asked.stdout) < MOST_MB


def test_grey_and_rgb_jpegs_have_pillows_pixels():
    photograph = bad_files.photograph(1, 600)
    for image in (photograph, photograph.convert("L")):
        for options in ({"quality": 90}, {"quality": 60, "progressive": True}, {"quality": 95, "subsampling": 0}):
            content = encoded(image, "JPEG", **options)
            for size in (512, 256, 150, 70, 32):
                again = Image.open(io.BytesIO(content))
                scale = 2 * size / 600
                if scale < 1:
                    again.draft(None, (round(600 * scale), round(603 * scale)))
                side = again.width
                top = (again.height - side) // 2
                square = again.crop((0, top, side, top + side)).convert("RGB")
                expected = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))
                picture = decode(content, size)
                np.testing.assert_array_equal(picture.pixels, expected)
                assert (picture.width, picture.height) == (600, 603)


def test_links_out_of_the_root_are_followed(tmp_path):
    """Sets are often made of links to where the images lie; whoever makes the links may read what they lead to."""
    write_tree(tmp_path / "elsewhere", [f"{name}/{number}.png" for name in "ab" for number in range(3)])
    (tmp_path / "root/train").mkdir(parents=True)
    (tmp_path / "root/train/a").symlink_to(tmp_path / "elsewhere/a")
    (tmp_path / "root/train/b").mkdir()
    for number in range(3):
        (tmp_path / f"root/train/b/{number}.png").symlink_to(tmp_path / f"elsewhere/b/{number}.png")
    store = store_of(settings(tmp_path / "root"), tmp_path / "stores")
    assert sum(store.counts.values()) == 6
