"""Nodes of a real Ray cluster that go, with and without a notice, and a head that goes: what a run makes of it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from launch_held import ON_A_CLUSTER, UNWATCHED
from redone import redone_updates
from run_artefacts import artefacts
from small_launch import GIVE_UP_S, SMALL, Launches, hear_all_signals, wait_for

from orchestrator.run.ledger import AttemptEnd, Entry, read_ledger
from workers.training.metrics import read_step

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]
SCRIPT = Path(__file__).with_name("ray_of_nodes.py")
# Long enough to be met in the midst of.
LONG = (*(word for word in SMALL if "epochs" not in word), "ensemble.stages.train.epochs=240", "cluster.max_losses=1")


@dataclass
class Nodes:
    """The cluster's process."""

    process: "subprocess.Popen[str]"
    address: str
    family: list[psutil.Process] = field(default_factory=list)

    def kill(self) -> None:
        """The head and all nodes, at once."""
        for process in self.family:
            with suppress(psutil.Error):
                process.kill()
        self.process.kill()
        self.process.wait()

    def order(self, line: str) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), "3"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        start_new_session=True,
    )
    assert process.stdout is not None
    address = next(line.strip() for line in process.stdout if ":" in line and " " not in line.strip())
    one = Nodes(process, address)
    one.family = psutil.Process(process.pid).children(recursive=True)
    yield one
    with suppress(BrokenPipeError):
        process.communicate("end\n", timeout=GIVE_UP_S)
    one.kill()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Launches:
    root = tmp_path_factory.mktemp("undisturbed")
    launches = Launches(root / "a", root / "store", LONG)
    launches.finish()
    return launches


def _launch(launches: Launches, nodes: Nodes, moment: str = ON_A_CLUSTER) -> "subprocess.Popen[str]":
    """A launch on the cluster, its first member well under way."""
    process = subprocess.Popen(
        launches.command(moment, f"cluster.address={nodes.address}"),
        env={**launches.environment, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=launches.root,
        preexec_fn=hear_all_signals,
    )
    wait_for(lambda: all(_step(launches, member) > 10 for member in ("one", "two")), process)
    return process


def _step(launches: Launches, member: str) -> int:
    return read_step(launches.paths.members / member / "train" / "step.txt")


def _entries(launches: Launches) -> list[Entry]:
    return [entry for name, entry in read_ledger(launches.paths.ledger).stages.items() if name.endswith("/train")]


def _ends(launches: Launches) -> list[AttemptEnd | None]:
    return [attempt.outcome for entry in _entries(launches) for attempt in entry.attempts]


@pytest.mark.parametrize("notice", [True, False], ids=["drained", "lost"])
def test_member_of_a_node_that_goes_is_trained_on_elsewhere_to_the_same_bytes(
    undisturbed: Launches, nodes: Nodes, tmp_path: Path, notice: bool
) -> None:
    launches = Launches(tmp_path / "b", undisturbed.store, LONG)
    process = _launch(launches, nodes)
    nodes.order("drain" if notice else "remove")
    _, err = process.communicate(timeout=2 * GIVE_UP_S)
    assert process.returncode == 0, err
    ends = _ends(launches)
    assert ends.count(AttemptEnd.preempted if notice else AttemptEnd.lost) == 1, ends
    assert ends.count(AttemptEnd.done) == 2
    if notice:
        assert sum(redone_updates(entry) for entry in _entries(launches)) == 0, "it checkpointed too late"
    assert artefacts(launches.paths) == artefacts(undisturbed.paths)
    assert launches.left_behind() == []


def test_head_that_is_lost_ends_the_launch_and_the_same_command_goes_on(
    undisturbed: Launches, nodes: Nodes, tmp_path: Path
) -> None:
    launches = Launches(tmp_path / "b", undisturbed.store, LONG)
    process = _launch(launches, nodes)
    nodes.kill()
    _, err = process.communicate(timeout=2 * GIVE_UP_S)
    assert process.returncode == 1, err
    # Ray's own threads may complain after it.
    said = [line for line in err.splitlines() if line.startswith("septet:")]
    assert len(said) == 1 and "run the same command again" in said[0], err
    assert launches.left_behind() == []
    launches.finish()
    assert artefacts(launches.paths) == artefacts(undisturbed.paths)
    assert all(attempt.resumed_from > 0 for entry in _entries(launches) for attempt in entry.attempts[1:])


def test_unwatched_head_that_is_lost_takes_the_launch_down_without_a_word(nodes: Nodes, tmp_path: Path) -> None:
    """The control: without the look at the head Ray ends the process, and nobody says what to do."""
    launches = Launches(tmp_path / "b", tmp_path / "store", LONG)
    process = _launch(launches, nodes, UNWATCHED)
    nodes.kill()
    try:
        _, err = process.communicate(timeout=2 * GIVE_UP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        _, err = process.communicate()
    assert process.returncode != 1 or "run the same command again" not in err
