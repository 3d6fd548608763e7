"""Memory while packing does not grow with the images: what is decoded goes to disk, a few images at a time."""

from pathlib import Path

import pytest
from listed import folder
from pictures import write_tree

from workers.data.store import PrepareProgress, prepare
from workers.settings import StoreFormat

SIZE = 256


def most_used_mb(root: Path, stores: Path, store_format: StoreFormat) -> float:
    """The most memory that is no file's page, looked at after each image."""
    most = 0.0

    def look(state: PrepareProgress) -> None:
        nonlocal most
        lines = Path("/proc/self/status").read_text().splitlines()
        most = max(most, next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1000)

    prepare(folder(root, size=SIZE, store_format=store_format), stores, look)
    return most


@pytest.mark.parametrize("store_format", list(StoreFormat))
def test_memory_while_packing_does_not_grow_with_the_images(tmp_path: Path, store_format: StoreFormat) -> None:
    most = {}
    for count in (60, 60, 600):
        files = {f"train/{'ab'[index % 2]}/{index}.png": index for index in range(count)}
        root = write_tree(tmp_path / f"images{count}", files)
        most[count] = most_used_mb(root, tmp_path / f"stores{len(most)}-{count}", store_format)
    # 540 images more are 106 MB of pixels.
    assert most[600] - most[60] < 30
