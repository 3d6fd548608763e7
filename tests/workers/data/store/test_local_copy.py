"""Copies of a store on a node's own disk: made once, whole, and refused with what to change."""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from at_once import at_once
from listed import flip, folder

from workers.data.store import local_copy, open_on_node, open_store, prepare
from workers.errors import StorageError
from workers.storage import locked


@pytest.fixture
def store(plain_tree, tmp_path):
    return prepare(folder(plain_tree), tmp_path / "stores")


def _open_and_report(store: Path, folder: Path, start: Any, outcome: Any) -> None:
    copied = local_copy._copied

    def counted(*arguments: Any) -> Any:
        outcome.put("copied")
        return copied(*arguments)

    local_copy._copied = counted
    start.wait(60)
    outcome.put(str(open_on_node(store, folder).path))


def test_processes_of_a_node_copy_a_store_once(store, tmp_path):
    node = tmp_path / "node"
    said = at_once(_open_and_report, [(store, node)] * 3, num_reports=4)
    (copy,) = node.iterdir()
    assert sorted(said) == sorted(["copied", *[str(copy)] * 3])
    names = {path.name for path in store.glob("[!.]*")}
    assert {path.name for path in copy.glob("[!.]*")} == names
    assert all((copy / name).read_bytes() == (store / name).read_bytes() for name in names)


def test_copying_and_waiting_are_signs_of_life(store, tmp_path, monkeypatch):
    beats: list[str] = []
    monkeypatch.setattr(local_copy, "_BLOCK_BYTES", 1 << 10)
    open_on_node(store, tmp_path / "node", lambda: beats.append("copying"))
    num_bytes = sum(path.stat().st_size for path in store.glob("[!.]*"))
    assert len(beats) >= num_bytes // (1 << 10)
    lock, waited = tmp_path / "a.lock", threading.Event()

    def wait():
        with locked(lock, waited.set):
            return waited.is_set()

    # Its end waits for the one that waits: so the lock must go first.
    with ThreadPoolExecutor(1) as threads:
        with locked(lock):
            waiting = threads.submit(wait)
            assert waited.wait(20)
            assert not waiting.done()
        assert waiting.result(20)


def test_members_read_the_copy_and_not_the_store(store, tmp_path):
    opened = open_on_node(store, tmp_path / "node")
    assert opened.digest == open_store(store).digest
    assert open_on_node(store, None).path == store
    expected = np.array(open_store(store).images("train"))
    for shard in store.glob("train-*.npy"):
        shard.write_bytes(bytes(shard.stat().st_size))
    assert np.array_equal(opened.images("train"), expected)
    again = open_on_node(store, tmp_path / "node")
    assert np.array_equal(again.images("train"), expected), "it was copied a second time"


def test_damaged_copy_is_made_again(store, tmp_path):
    copied = open_on_node(store, tmp_path / "node")
    (copied.path / "val.labels.npy").unlink()
    again = open_on_node(store, tmp_path / "node")
    assert again.path == copied.path
    assert np.array_equal(again.labels("val"), open_store(store).labels("val"))
    flip(copied.path / "train-00000.images.npy")
    with pytest.raises(StorageError, match="image 4 of this shard is damaged"):
        copied.images("train")[:]
    again = open_on_node(store, tmp_path / "node")
    assert np.array_equal(again.images("train"), open_store(store).images("train"))


def test_store_whose_bytes_are_not_those_of_its_manifest_is_not_copied(store, tmp_path):
    shard = store / "train-00000.images.npy"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\0\1"[shard.read_bytes()[-1] == 0 :][:1])
    with pytest.raises(StorageError, match=rf"{shard}.*sha256"):
        open_on_node(store, tmp_path / "node")
    assert not list((tmp_path / "node").iterdir())


def test_node_without_room_is_told_what_to_change(store, tmp_path, monkeypatch):
    real = os.statvfs(tmp_path)
    full = os.statvfs_result((*real[:3], 2, 1, *real[5:]))
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    with pytest.raises(StorageError, match=rf"node: the copy of {store} needs .*datasets\.local_copy"):
        open_on_node(store, tmp_path / "node")
    assert not list((tmp_path / "node").iterdir())


def _open_and_die(store: Path, folder: Path) -> None:
    copied, seen = local_copy._copy_checked, []

    def dying(*arguments: Any) -> None:
        copied(*arguments)
        seen.append(arguments)
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    local_copy._copy_checked = dying
    open_on_node(store, folder)


def test_copy_that_was_killed_on_its_way_leaves_nothing_for_the_next(store, tmp_path):
    node = tmp_path / "node"
    other = node / ".tmp-another-0123-x"
    other.mkdir(parents=True)
    process = multiprocessing.get_context("spawn").Process(target=_open_and_die, args=(store, node))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert len(list(node.glob(f".tmp-{store.name}-*"))) == 1
    copy = open_on_node(store, node).path
    assert set(node.iterdir()) == {copy, other}, "what another copy is made of is not touched"
