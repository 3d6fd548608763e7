"""Two launches on one run directory: the second ends at once and names the first; a killed one holds nothing."""

import os
import socket

import pytest
from oracle import expect_line, expect_recovered

from orchestrator.run.holder import lock
from orchestrator.run.paths import RunPaths
from workers.errors import RunInUse

pytestmark = pytest.mark.timeout(600)


@pytest.mark.slow
def test_second_launch_names_the_first_and_changes_nothing(undisturbed, new_place, family):
    place = new_place("two", in_process=True)
    first = place.start(moment="training")
    before = {path: path.stat().st_mtime_ns for path in place.paths.root.rglob("*")}
    second = place.start()
    expect_line(place.ended(second), 5, f"in use by process {first.pid} on {socket.gethostname()}")
    assert first.poll() is None
    assert {path: path.stat().st_mtime_ns for path in place.paths.root.rglob("*")} == before
    first.kill()
    first.wait()
    expect_recovered(place, undisturbed, family)


def test_second_holder_is_told_the_process_of_the_first(tmp_path):
    paths = RunPaths(tmp_path)
    with lock(paths), pytest.raises(RunInUse, match=f"process {os.getpid()} on"), lock(paths):
        pass
    with lock(paths):
        pass
