"""A store of 1.3 million images: what opening and using it costs does not grow with its pixels."""

from pathlib import Path

import pytest

from benchmarks.large_store import MAX_MEMORY_MB, NUM_IMAGES, memory_used, write_store
from workers.data.store import store as module
from workers.data.store.store import open_store


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("large") / "store")


def test_opening_reads_the_manifest_alone(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def noted_open(path: Path, *arguments: object, **options: object) -> object:
        read.append(path.name)
        return real_open(path, *arguments, **options)

    real_open = Path.open
    monkeypatch.setattr(Path, "open", noted_open)
    monkeypatch.setattr(module.np, "load", lambda path, **options: read.append(path.name))
    store = open_store(large)
    assert store.counts["train"] == NUM_IMAGES
    assert len(store.shards["train"]) > 1000
    assert store.images("train").shape == (NUM_IMAGES, 2, 2, 3)
    assert read == ["manifest.json"]
    assert str(large) not in Path("/proc/self/maps").read_text()


def test_large_store_takes_little_memory_beyond_its_pages(large: Path) -> None:
    store = open_store(large)
    assert memory_used(store) < MAX_MEMORY_MB
    labels, rows = store.labels("train"), store.rows("train")
    assert labels is not None
    assert rows[1_234_567] == "n00000567/n00000567_1234567.JPEG"
    assert labels[1_234_567] == 567
