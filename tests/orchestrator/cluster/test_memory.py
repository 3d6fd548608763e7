"""The memory limit of a control group: read in both versions, and told when the kernel kills a member for it."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import ray
from oracle import child_environment, wait_for
from ray.exceptions import OutOfMemoryError

from orchestrator.cluster.interface import Failure, Halted, Lost
from orchestrator.cluster.memory import memory_limit, oom_kills
from orchestrator.cluster.ray_backend import RayCluster

GROUP = Path(f"/sys/fs/cgroup/memory/septet-test-{os.getpid()}")
LIMIT = 1 << 30


@pytest.mark.parametrize(
    ("line", "folder", "files", "limit", "kills"),
    [
        ("0::/a/b", "a", {"memory.max": "1000\n", "memory.events": "low 0\noom 3\noom_kill 2\n"}, 1000, 2),
        ("4:memory:/a/b", "memory/a/b", {"memory.limit_in_bytes": "2000", "memory.oom_control": "oom_kill 1"}, 2000, 1),
        ("0::/host/path", "", {"memory.max": "3000\n"}, 3000, 0),
        ("0::/a", "a", {"memory.max": "max\n"}, psutil.virtual_memory().total, 0),
        ("4:cpu:/a", "cpu/a", {"memory.max": "1"}, psutil.virtual_memory().total, 0),
    ],
)
def test_limit_and_kills_of_the_group_are_read(tmp_path, line, folder, files, limit, kills):
    (tmp_path / "mount" / folder).mkdir(parents=True)
    for name, text in files.items():
        (tmp_path / "mount" / folder / name).write_text(text)
    (tmp_path / "groups").write_text(f"9:name=systemd:/\n{line}\n")
    where = (tmp_path / "groups", tmp_path / "mount")
    assert (memory_limit(*where), oom_kills(*where)) == (limit, kills)
    assert memory_limit(tmp_path / "absent", tmp_path) == psutil.virtual_memory().total


@pytest.fixture
def crowd(monkeypatch):
    """A cluster of eight slots and two members; its calls end in turn, all by a kill for memory but "well"."""

    def ended(call):
        if call == "well":
            return Halted("as asked")
        raise OutOfMemoryError("killed")

    monkeypatch.setattr(ray, "wait", lambda calls, **_: (calls[:1], calls[1:]))
    monkeypatch.setattr(ray, "get", ended)
    monkeypatch.setattr(RayCluster, "_look_at_head", lambda _: True)
    cluster = RayCluster(8, 1, 0, lambda: None)
    cluster._actors = dict.fromkeys(("one", "two"))
    return cluster


def _outcomes(cluster, **calls):
    """Returns the kinds of outcomes of calls, each of a member, in their order."""
    cluster._calls = {call: (member, 0) for call, member in calls.items()}
    return [type(cluster.poll(1)[0].outcome) for _ in calls]


def test_member_killed_a_moment_after_another_ran_beside_it_and_is_tried_alone(crowd):
    assert _outcomes(crowd, killed="one", too="two") == [Lost, Lost]
    assert crowd.num_slots == 1
    assert _outcomes(crowd, again="two") == [Failure], "nothing ran beside it now"


def test_member_whose_job_ended_well_beside_a_kill_is_not_crowded_in_its_next_job(crowd):
    assert _outcomes(crowd, killed="one", well="two") == [Lost, Halted]
    slots = crowd.num_slots
    assert _outcomes(crowd, alone="two") == [Failure] and crowd.num_slots == slots


LIMITED = """
import sys
from pathlib import Path
from orchestrator.cluster.actor import Duties
from orchestrator.cluster.ray_backend import RayCluster
from orchestrator.cluster.ray_session import local
from fake_stages import make_spec

def greedy():
    def run_stage(spec, should_stop):
        if spec.member == "greedy":
            kept = [bytearray(b"x" * (64 << 20)) for _ in range(64)]
        while not should_stop():
            pass
    return Duties(run_stage, None)

with local():
    cluster = RayCluster(2, 1, 0, greedy)
    for members in (("patient", "greedy"), ("greedy",)):
        for member in members:
            cluster.acquire(member)
            cluster.run_stage(make_spec(Path(sys.argv[1], member, "train")))
        ended = ()
        while not ended:
            ended = cluster.poll(0.5)
        print(ended[0].member, ended[0].outcome, cluster.num_slots, flush=True)
        for member in members:
            cluster.discard(member)
    cluster.close()
"""


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_member_that_the_kernel_kills_for_memory_runs_with_fewer_beside_it_and_alone_fails(tmp_path):
    try:
        GROUP.mkdir(exist_ok=True)
        (GROUP / "memory.limit_in_bytes").write_text(str(LIMIT))
    except OSError:
        pytest.skip("making a control group for memory is not allowed here")
    environment = child_environment()
    try:
        enter = f'echo $$ > {GROUP}/tasks && exec "$0" "$@"'
        ended = subprocess.run(
            ["sh", "-c", enter, sys.executable, "-c", LIMITED, str(tmp_path)],
            env=environment | {"PYTHONPATH": f"{environment['PYTHONPATH']}:{Path(__file__).parents[1]}"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        # Once Ray's last processes have left it.
        wait_for(lambda: not (GROUP / "tasks").read_text(), give_up_s=60)
        GROUP.rmdir()
    first, second = ended.stdout.splitlines()
    why = "memory ran out (the limit here is 1.1 GB)"
    assert (
        first.startswith("greedy Lost(")
        and why in first
        and first.endswith("at most 1 member at once', announced=False) 1")
    )
    assert second.startswith("greedy Failure(kind='OutOfMemory'") and why in second and "retryable=False" in second
