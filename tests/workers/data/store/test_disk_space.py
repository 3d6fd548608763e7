"""Room on the disk is asked for before anything is read."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from listed import folder

from workers.data.store import PrepareProgress, prepare
from workers.data.store.disk_space import store_bytes
from workers.errors import StorageError
from workers.settings import StoreFormat


@pytest.fixture
def leave_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes every disk say that it has so many bytes free."""
    real = os.statvfs(tmp_path)

    def leave(free: int) -> None:
        said = os.statvfs_result((1, 1, *real[2:4], free, *real[5:]))
        monkeypatch.setattr(os, "statvfs", lambda path: said)

    return leave


def test_store_larger_than_the_disk_is_refused_before_an_image_is_read(
    plain_tree: Path, tmp_path: Path, leave_free: Callable[[int], None]
) -> None:
    leave_free(200_000)
    seen: list[PrepareProgress] = []
    with pytest.raises(StorageError) as caught:
        prepare(folder(plain_tree, size=64), tmp_path / "place" / "stores", seen.append)
    message = str(caught.value)
    assert f"{store_bytes(65, 64, StoreFormat.raw, 90):,} bytes" in message
    assert "200,000 bytes" in message
    assert "datasets.store" in message
    assert "datasets.<name>.store_format=jpeg" in message
    assert not seen
    assert not (tmp_path / "place").exists()
    # As JPEG there is room.
    prepare(folder(plain_tree, size=64, store_format=StoreFormat.jpeg), tmp_path / "stores")


def test_finished_shards_need_no_room_again(
    plain_tree: Path, tmp_path: Path, leave_free: Callable[[int], None]
) -> None:
    settings = folder(plain_tree, size=64)

    def interrupt(state: PrepareProgress) -> None:
        if state.phase == "pack" and state.done == 65:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(settings, tmp_path / "stores", interrupt)
    leave_free(store_bytes(65, 64, StoreFormat.raw, 90) * 3 // 4)
    prepare(settings, tmp_path / "stores")


def test_needed_bytes_bound_what_is_written(plain_tree: Path, tmp_path: Path) -> None:
    for store_format in StoreFormat:
        settings = folder(plain_tree, size=100, store_format=store_format)
        path = prepare(settings, tmp_path / "stores")
        # A mean image, and headers and records of files, are there once, however many images there are.
        fixed = (path / "mean_image.npy").stat().st_size + 20_000
        written = sum(each.stat().st_size for each in path.iterdir()) - fixed
        assert written <= store_bytes(65, 100, store_format, settings.jpeg_quality)
