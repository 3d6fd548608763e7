"""A disk that is full, or fails: the checkpoint before is intact, exit 7 with a line, and afterwards the same bytes."""

import errno
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from in_process_launch import Place
from oracle import fill_disk
from run_artefacts import artefacts

from workers.storage.checkpoint import verify_checkpoint
from workers.training import saver as saver_module

pytestmark = pytest.mark.timeout(300)
AT = 8


@dataclass
class Fault:
    """A fault of the disk that begins as the first checkpoint from update 8 on is written, and is counted."""

    patch: pytest.MonkeyPatch
    fired: int = 0
    step: int = 0

    def put_in_place(self, begin):
        real = saver_module.write_checkpoint

        def write(folder, step, *rest):
            if step >= AT and not self.step:
                self.step = step
                begin(self)
            return real(folder, step, *rest)

        self.patch.setattr(saver_module, "write_checkpoint", write)

    def refuse(self, error):
        self.fired += 1
        raise OSError(error, os.strerror(error))


def no_fsync_succeeds(fault):
    real_fsync = os.fsync

    def fsync(descriptor):
        if ".tmp-step-" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            fault.refuse(errno.EIO)
        real_fsync(descriptor)

    fault.patch.setattr(os, "fsync", fsync)


def check_stops_and_resumes(place, smallest, begin, end, capsys, said):
    """A launch meets the fault, leaves the checkpoint before, and ends in the same bytes once the fault has ended."""
    with pytest.MonkeyPatch.context() as patch:
        fault = Fault(patch)
        fault.put_in_place(begin)
        assert place.launch() == 7
    assert fault.fired == 1, "a StorageError is not tried again: the disk would be as full"
    line = capsys.readouterr().err.splitlines()[-1]
    assert said.format(step=fault.step) in line
    assert "free space or fix permissions, then run it again" in line
    # Every checkpoint under a final name is whole.
    before = max(verify_checkpoint(folder).step for folder in place.checkpoints.iterdir())
    assert 0 < before < fault.step
    assert not place.has_submission()
    assert not place.leftovers()
    end()
    assert place.launch() == 0
    assert place.entry.attempts[-1].resumed_from == before
    assert artefacts(place.paths) == artefacts(smallest.paths)
    assert not place.leftovers()


@pytest.mark.slow
def test_launch_on_a_disk_that_fails_leaves_the_checkpoint_before_and_resumes_once_fixed(small_place, smallest, capsys):
    said = "checkpoints/step-{step:08d}: Input/output error"
    check_stops_and_resumes(small_place, smallest, no_fsync_succeeds, lambda: None, capsys, said)


def test_launch_on_a_full_disk_resumes(smallest, small_disk, capsys):
    place, ballast = Place(small_disk / "run", smallest.shared), small_disk / "ballast"

    def fill(fault):
        fill_disk(ballast)
        fault.fired += 1

    check_stops_and_resumes(place, smallest, fill, ballast.unlink, capsys, "No space left")


def fill_but_a_little(fill):
    fill_disk(fill)
    with fill.open("r+b") as file:
        file.truncate(fill.stat().st_size - (64 << 10))


def test_launch_on_a_disk_too_small_for_its_checkpoints_is_refused_before_training(small_disk, small_place, capsys):
    fill_but_a_little(small_disk / "ballast")
    assert small_place.launch(f"run_dir={small_disk / 'run'}") == 7
    assert re.search(r"run: the run needs [\d,]+ bytes, [\d,]+ bytes are free", capsys.readouterr().err)
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


def test_member_added_on_a_disk_without_room_for_it_is_refused_and_the_run_stays(smallest, small_disk, capsys):
    place = Place(small_disk / "run", smallest.shared)
    shutil.copytree(smallest.root, place.root)
    fill_but_a_little(small_disk / "ballast")
    run_json = place.paths.run_json.read_bytes()
    assert place.launch("+ensemble.members.second={stages: {train: {dataset: target}}}") == 7
    assert "run: the run needs" in capsys.readouterr().err
    assert place.paths.run_json.read_bytes() == run_json and not (place.paths.members / "second").exists()
    (small_disk / "ballast").unlink()
    assert place.launch() == 0
