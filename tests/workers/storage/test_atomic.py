"""A folder that takes another's place where two names cannot be exchanged in one step."""

import errno
from pathlib import Path

import pytest

from workers.errors import StorageError
from workers.storage import atomic


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file in it, on a file system that exchanges nothing."""
    monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    folder = tmp_path / "submission"
    folder.mkdir()
    (folder / "file").write_text("old")
    return folder


def replace(folder: Path) -> None:
    with atomic.replacing_folder(folder) as staged:
        (staged / "file").write_text("new")


def test_folder_takes_the_place_of_another_by_two_renames(old):
    replace(old)
    assert (old / "file").read_text() == "new"
    assert list(old.parent.iterdir()) == [old]


@pytest.mark.parametrize("trouble", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_trouble_between_renames_is_undone(old, monkeypatch, trouble):
    rename, targets = Path.rename, []

    def second_fails(self, target):
        targets.append(target)
        if len(targets) == 2:
            raise trouble
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(KeyboardInterrupt if isinstance(trouble, KeyboardInterrupt) else StorageError):
        replace(old)
    assert len(targets) == 3
    assert (old / "file").read_text() == "old"
    assert list(old.parent.iterdir()) == [old]
