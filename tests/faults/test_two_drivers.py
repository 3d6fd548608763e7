"""Two launches on one run directory: the second ends at once and names the first; a killed one holds nothing."""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_artefacts import artefacts
from small_launch import GIVE_UP_S, Launches

from orchestrator.run import holder as run_dir, open as open_run
from orchestrator.run.holder import lock
from orchestrator.run.paths import RunPaths
from workers.errors import RunInUse

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def launches(tmp_path: Path) -> Iterator[Launches]:
    one = Launches(tmp_path / "a", tmp_path / "store")
    yield one
    for process in one._living():
        process.kill()


@pytest.mark.slow
def test_second_launch_names_the_first_and_changes_nothing_and_a_killed_one_is_no_hindrance(
    launches: Launches,
) -> None:
    first = launches.start("training")
    before = {path for path in launches.paths.root.rglob("*") if "checkpoints" not in path.parts}
    second = subprocess.run(
        launches.command("never"),
        env=launches.environment,
        capture_output=True,
        text=True,
        timeout=GIVE_UP_S,
        check=False,
    )
    assert (second.returncode, second.stdout) == (5, "")
    assert f"in use by process {first.pid} on {socket.gethostname()}" in second.stderr.splitlines()[-1]
    assert not [path for path in launches.paths.root.rglob(".tmp-*") if path.parent.name != "checkpoints"]
    assert before <= set(launches.paths.root.rglob("*"))
    first.kill()
    first.communicate(timeout=GIVE_UP_S)
    launches.finish()
    assert launches.left_behind() == []
    assert len(artefacts(launches.paths)) == 2 + 2 * 3 + 2


def test_second_holder_without_the_lock_would_be_let_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = RunPaths(tmp_path)
    with lock(paths), pytest.raises(RunInUse, match=f"process {os.getpid()} on"), lock(paths):
        pass
    monkeypatch.setattr(run_dir, "_acquire", lambda paths, descriptor: None)
    with lock(paths) as first, lock(paths) as second:
        assert first.token != second.token
    assert open_run.lock is lock
