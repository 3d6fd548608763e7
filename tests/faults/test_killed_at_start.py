"""A driver that is killed while its Ray is still starting: no process of it and no folder stays behind."""

import shutil
import signal

import psutil
import pytest
from oracle import expect_clean_end, wait_for

# What is there when the driver is killed: Ray's first process, and its agents, which do not see their parent die.
FIRST, AGENT = "gcs_server", "agent.py"
# The guard as it is when it has had no look yet; left to chance otherwise.
BEFORE_THE_FIRST_LOOK = (
    "_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 16.0",
    "_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 600.0, 600.0",
)


def kill_at_start(place, family, awaited):
    process = place.start()
    wait_for(
        lambda: (
            process.poll() is not None
            or any(awaited in word for one in family.living() for word in command_of(one)[:4])
        )
    )
    assert process.poll() is None, "over before it was killed"
    assert not any(place.paths.members.glob("*/*/step.txt")), "it trains already: this is not its start"
    process.send_signal(signal.SIGKILL)
    assert place.ended(process).code == -signal.SIGKILL


def patched(checkout, target):
    """A copy of the packages whose guard has no look before the driver is dead; its path."""
    for package in ("orchestrator", "workers", "conf"):
        shutil.copytree(checkout / package, target / package, ignore=shutil.ignore_patterns("__pycache__"))
    guard = target / "orchestrator" / "cluster" / "process_guard.py"
    text, (before, after) = guard.read_text(), BEFORE_THE_FIRST_LOOK
    assert text.count(before) == 1, before
    guard.write_text(text.replace(before, after))
    return str(target)


@pytest.mark.soak
@pytest.mark.parametrize("awaited", [FIRST, AGENT])
def test_driver_killed_while_ray_starts_leaves_nothing(awaited, new_place, family, checkout, tmp_path):
    place = new_place("killed")
    place.environment["PYTHONPATH"] = patched(checkout, tmp_path / "packages")
    kill_at_start(place, family, awaited)
    expect_clean_end(place, family)


def command_of(process):
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []
