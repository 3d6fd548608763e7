"""A disk that is full, or fails: the checkpoint before is intact, exit 7 with a line, and afterwards the same bytes."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from in_process_launch import Place
from run_artefacts import artefacts

from workers.errors import StorageError
from workers.storage import checkpoint as protocol
from workers.storage.checkpoint import verify_checkpoint
from workers.training import saver as saver_module

pytestmark = pytest.mark.timeout(300)
AT = 8


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def undisturbed(shared: Path) -> Place:
    place = Place(shared / "undisturbed", shared)
    assert place.launch() == 0
    return place


@pytest.fixture
def place(shared: Path, tmp_path: Path) -> Place:
    return Place(tmp_path / "run", shared)


@dataclass
class Fault:
    """A fault of the disk that begins as the first checkpoint from update 8 on is written, and is counted."""

    fired: int = 0
    step: int = 0


def _as_the_checkpoint_is_written(patch: pytest.MonkeyPatch, fault: Fault, begin: Callable[[], None]) -> None:
    real = saver_module.write_checkpoint

    def write(folder: Path, step: int, *rest: Any) -> protocol.Checkpoint:
        if step >= AT and not fault.step:
            fault.step = step
            begin()
        return real(folder, step, *rest)

    patch.setattr(saver_module, "write_checkpoint", write)


def failing_call(patch: pytest.MonkeyPatch, kind: str) -> Fault:
    """Every fsync of a file below `checkpoints`, or every write of a piece, fails from then on."""
    fault = Fault()

    def refuse(error: int) -> None:
        fault.fired += 1
        raise OSError(error, os.strerror(error))

    def begin() -> None:
        real_fsync = os.fsync

        def fsync(descriptor: int) -> None:
            if ".tmp-step-" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
                refuse(errno.EIO)
            real_fsync(descriptor)

        def write_hashed(file: Any, pieces: Any) -> Any:
            # Half of it gets through.
            file.write(next(iter(pieces))[:4])
            return refuse(errno.ENOSPC)

        if kind == "EIO":
            patch.setattr(os, "fsync", fsync)
        else:
            patch.setattr(protocol, "write_hashed", write_hashed)

    _as_the_checkpoint_is_written(patch, fault, begin)
    return fault


def check_intact(place: Place) -> list[int]:
    """Every checkpoint under a final name is whole; gives their steps."""
    folders = sorted(place.checkpoints.iterdir())
    return [verify_checkpoint(folder).step for folder in folders]


@pytest.mark.parametrize(("kind", "said"), [("ENOSPC", "No space left"), ("EIO", "Input/output error")])
def test_launch_on_a_disk_that_fails_leaves_the_checkpoint_before_and_goes_on_once_mended(
    place: Place,
    undisturbed: Place,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    said: str,
) -> None:
    with monkeypatch.context() as patch:
        fault = failing_call(patch, kind)
        assert place.launch() == 7
    assert fault.fired == 1, "a StorageError is not tried again: the disk would be as full"
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"checkpoints/step-{fault.step:08d}: {said}" in line
    assert "free space or fix permissions, then run it again" in line
    before = max(check_intact(place))
    assert 0 < before < fault.step
    assert not place.has_submission()
    assert not place.leftovers()
    assert place.launch() == 0
    assert place.entry.attempts[-1].resumed_from == before
    assert artefacts(place.paths) == artefacts(undisturbed.paths)
    assert not place.leftovers()


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "septet-test", str(folder)],
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip("no right to mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_launch_on_a_disk_that_is_really_full_stops_and_goes_on_once_there_is_room(
    shared: Path,
    undisturbed: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with small_disk(tmp_path / "disk", 16):
        place = Place(tmp_path / "disk" / "run", shared)
        ballast = tmp_path / "disk" / "ballast"
        fault = Fault()

        def fill() -> None:
            with ballast.open("wb", buffering=0) as file:
                while True:
                    try:
                        file.write(bytes(4096))
                    except OSError as error:
                        assert error.errno == errno.ENOSPC
                        fault.fired += 1
                        return

        with monkeypatch.context() as patch:
            _as_the_checkpoint_is_written(patch, fault, fill)
            assert place.launch() == 7
        assert fault.fired == 1
        assert "No space left on device" in capsys.readouterr().err.splitlines()[-1]
        assert 0 < max(check_intact(place)) < fault.step
        assert not place.has_submission()
        assert not place.leftovers()
        ballast.unlink()
        assert place.launch() == 0
        assert artefacts(place.paths) == artefacts(undisturbed.paths)
        assert not place.leftovers()


def test_without_the_folder_beside_it_half_a_checkpoint_would_lie_under_the_final_name(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def in_place(target: Path, *check: object) -> Iterator[Path]:
        target.mkdir(parents=True)
        with protocol.storage_errors(target):
            yield target

    monkeypatch.setattr(protocol, "atomic_folder", in_place)
    fault = failing_call(monkeypatch, "ENOSPC")
    assert place.launch() == 7
    assert fault.fired == 1
    with pytest.raises(StorageError):
        check_intact(place)
