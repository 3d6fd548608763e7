"""kill -9 of a preparation at seeded moments: the next one redoes no finished shard and ends in the same bytes."""

import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from unittest.mock import Mock

import pytest
from listed import folder, store_of
from pictures import write_tree

from workers.data.sources.files import FileLoader
from workers.data.store import PrepareProgress, Store, open_store, preparation, prepare, rows_per_shard
from workers.errors import DataError, SourceLost
from workers.settings import DatasetSettings, OnBad
from workers.storage import is_locked

SCRIPT = Path(__file__).with_name("prepare_counted.py")
RECORDS = ".building-*/*.records/*.json"
SIZE = 128
NUM_IMAGES = 700
NUM_CORES = len(os.sched_getaffinity(0))
GIVE_UP_S = 60.0


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Enough images for ten shards, each of its own pixels."""
    names = [f"train/{'abc'[index % 3]}/{index:03}.png" for index in range(NUM_IMAGES - 40)]
    return write_tree(tmp_path_factory.mktemp("images"), [*names, *(f"test/{index:02}.png" for index in range(40))])


@pytest.fixture(scope="module")
def digest(images, tmp_path_factory):
    """The digest of a store that was made in one go."""
    return store_of(settings(images), tmp_path_factory.mktemp("undisturbed")).digest


@pytest.fixture
def tree(images, tmp_path):
    return shutil.copytree(images, tmp_path / "images")


def settings(root: Path, **changes: object) -> DatasetSettings:
    return folder(root, size=SIZE, **changes)


def shard_of(store: Store) -> dict[str, str]:
    """Which shard holds the image at each path."""
    stems = {}
    for split, below in {"train": "train", "dev": "train", "val": "train", "test": "test"}.items():
        rows = store.rows(split)
        step = rows_per_shard(len(rows), SIZE)
        stems |= {f"{below}/{row}": f"{split}-{index // step:05d}" for index, row in enumerate(rows)}
    return stems


class Preparation:
    """One store in the making, with all that its processes logged."""

    def __init__(self, root: Path, place: Path) -> None:
        place.mkdir()
        self.stores, self.log = place / "stores", place / "log.txt"
        self.log.touch()
        self._command = [sys.executable, str(SCRIPT), str(root), str(self.stores), str(self.log), str(SIZE)]
        self.done_before: dict[int, set[str]] = {}

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    def run_until(self, num_lines: int | None) -> bool:
        """Kills the process once the log has that many lines more; False if it came to its end first."""
        before = self.log.read_bytes().count(b"\n")
        self.done_before[before] = {path.stem for path in self.stores.glob(RECORDS)}
        process = subprocess.Popen(self._command)
        give_up = time.monotonic() + GIVE_UP_S
        while process.poll() is None and (num_lines is None or self.log.read_bytes().count(b"\n") < before + num_lines):
            assert time.monotonic() < give_up
            time.sleep(0.001)
        process.kill()
        code = process.wait()
        assert code in (0, -9)
        return code == -9

    def store(self) -> Store:
        (path,) = self.stores.iterdir()
        return open_store(path)

    def check_nothing_finished_was_redone(self) -> int:
        """How many decodes were spared, all in all."""
        lines, stem_of = self.lines(), shard_of(self.store())
        starts = [*self.done_before, len(lines)]
        spared = 0
        for start, end, done in zip(starts, starts[1:], self.done_before.values(), strict=False):
            decoded = {stem_of[line.split()[1]] for line in lines[start:end] if line.startswith("decode")}
            assert not decoded & done
            spared += sum(stem in done for stem in stem_of.values())
        return spared


@pytest.mark.parametrize("num_kills", [4, pytest.param(20, marks=pytest.mark.soak)])
def test_preparation_that_is_killed_again_and_again_ends_in_the_same_bytes(tree, tmp_path, num_kills):
    reference = Preparation(tree, tmp_path / "reference")
    assert not reference.run_until(None)
    expected = {path.name: path.read_bytes() for path in reference.store().path.glob("[!.]*")}
    counts = Counter(line.split()[0] for line in reference.lines())
    assert counts == {"read": 2 * NUM_IMAGES, "decode": NUM_IMAGES}
    moments = random.Random(2012)
    killed = spared = rounds = 0
    while killed < num_kills:
        rounds += 1
        preparation = Preparation(tree, tmp_path / f"round{rounds}")
        kills = 0
        while killed < num_kills and preparation.run_until(moments.randrange(1, 2 * NUM_IMAGES)):
            kills += 1
            killed += 1
        preparation.run_until(None)
        assert {path.name: path.read_bytes() for path in preparation.store().path.glob("[!.]*")} == expected
        spared += preparation.check_nothing_finished_was_redone()
        # A kill costs what is unfinished: a shard a thread, and a block of contents with what its threads read ahead.
        decoded = sum(line.startswith("decode") for line in preparation.lines())
        assert decoded <= NUM_IMAGES + kills * (NUM_CORES + 1) * rows_per_shard(NUM_IMAGES, SIZE)
        read = sum(line.startswith("read") for line in preparation.lines())
        assert read <= decoded + NUM_IMAGES + kills * (50 + NUM_CORES * 8 + 1)
    assert spared > 0, "no kill met a finished shard"


def interrupted(tree: Path, stores: Path, num_images: int = 600) -> None:
    """Prepares until that many images are packed."""

    def interrupt(state: PrepareProgress) -> None:
        if state.phase == "pack" and state.done >= num_images:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(settings(tree), stores, interrupt)


@pytest.mark.parametrize("step", ["image_statistics", "_commit"])
def test_interruption_at_the_end_is_free(tree, tmp_path, monkeypatch, step):
    interrupt = Mock(side_effect=KeyboardInterrupt)
    with monkeypatch.context() as interrupted, pytest.raises(KeyboardInterrupt):
        interrupted.setattr(preparation, step, interrupt)
        prepare(settings(tree), tmp_path / "stores")
    monkeypatch.setattr(FileLoader, "load", interrupt)
    assert store_of(settings(tree), tmp_path / "stores").counts["test"] == 40


@pytest.mark.parametrize("on_bad", list(OnBad))
def test_files_gone_while_packing_cost_no_finished_shard(tree, tmp_path, digest, on_bad):
    """As where one node of a cluster, or a mount that broke down, does not have them: none may become a grey row."""
    chosen = settings(tree, on_bad=on_bad)
    gone = tmp_path / "gone"

    def unmount(state):
        if state.phase == "pack" and state.done >= 300 and not gone.exists():
            tree.rename(gone)

    with pytest.raises(SourceLost, match=rf"below {tree} could be read before, but not now on .*No such file"):
        prepare(chosen, tmp_path / "stores", unmount)
    assert list((tmp_path / "stores").glob(RECORDS))
    gone.rename(tree)
    seen: list[PrepareProgress] = []
    store = store_of(chosen, tmp_path / "stores", seen.append)
    first = next(state for state in seen if state.phase == "pack")
    assert first.done > 1, "finished shards are told at once"
    assert not store.left_out and not store.unreadable("test")
    assert store.digest == digest


def test_shards_of_a_listing_that_changed_are_not_used(tree, tmp_path):
    stores = tmp_path / "stores"
    interrupted(tree, stores)
    write_tree(tree, {"train/a/000.png": 99_999})
    store = store_of(settings(tree), stores)
    assert store.digest == store_of(settings(tree), tmp_path / "others").digest
    # Nor where the key does not tell, as where a folder was put under another's name.
    (left,) = stores.glob(".building-*")
    key = store.path.name
    store.path.rename(tmp_path / "kept")
    left = left.rename(stores / f".building-{key}")
    for inner in [each for each in left.iterdir() if each.name != "contents"]:
        inner.rename(left / f"{key}{inner.suffix}")
    for block in (left / "contents").iterdir():
        block.unlink()
    assert store_of(settings(tree), stores).digest == store.digest


@pytest.mark.parametrize("damage", ["truncate", "remove", "record"])
def test_damaged_shard_of_a_killed_one_is_packed_again(tree, tmp_path, digest, damage):
    stores = tmp_path / "stores"
    interrupted(tree, stores)
    record = next(path for path in stores.glob(RECORDS) if path.stem.startswith("train"))
    pixels = record.parent.with_suffix("") / f"{record.stem}.images.npy"
    if damage == "truncate":
        pixels.write_bytes(pixels.read_bytes()[:-1])
    elif damage == "remove":
        pixels.unlink()
    else:
        record.write_text("{")
    assert store_of(settings(tree), stores).digest == digest


def test_error_after_an_interruption_leaves_nothing(tree, tmp_path):
    write_tree(tree, {"train/a/bad.png": b"bad"})
    interrupted(tree, tmp_path / "stores")
    with pytest.raises(DataError, match=r"bad\.png"):
        prepare(settings(tree), tmp_path / "stores")
    assert not list((tmp_path / "stores").iterdir())


def test_abandoned_preparations_go_after_a_week(tree, tmp_path, monkeypatch):
    stores = tmp_path / "stores"
    now = time.time()
    interrupted(tree, stores)
    for later_s, left in ((0.0, 1), (8 * 24 * 3600.0, 0)):
        monkeypatch.setattr(time, "time", lambda later_s=later_s: now + later_s)
        prepare(settings(tree, dev_fraction=0.2 if left else 0.3), stores)
        assert len(list(stores.glob(".building-*"))) == left


def test_lock_of_another_user_counts_as_held(tmp_path, monkeypatch):
    """What that user's killed preparation left is not removed, and nobody's launch ends over it."""
    path = tmp_path / "x.lock"
    path.touch()
    assert not is_locked(path)

    monkeypatch.setattr(os, "open", Mock(side_effect=PermissionError(13, "Permission denied")))
    assert is_locked(path)
