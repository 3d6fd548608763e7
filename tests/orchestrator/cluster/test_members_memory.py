"""What a step of a member frees stays with its process, though members train on threads of Ray's."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

_PLAIN_RAY = """
import sys, ray
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80_000_000)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
# As many calls at once as the actors of members allow, since those run on threads.
_FAULTS = """
import sys
from orchestrator.cluster.ray_session import attached, local
from orchestrator.config.schema import ClusterConfig
class Worker:
    def faults(self):
        import itertools, resource, statistics, torch
        from workers import numerics
        from workers.protocol import Numerics
        numerics.apply(Numerics())
        counts = []
        for _ in range(21):
            torch.empty(25_000_000).fill_(1.0)
            counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
        return statistics.median(later - before for before, later in itertools.pairwise(counts))
with attached(ClusterConfig(address=sys.argv[1])) if sys.argv[1:] else local():
    import ray
    worker = ray.remote(Worker).options(num_cpus=1, max_concurrency=3).remote()
    print(ray.get(worker.faults.remote()))
"""


def faults(*address):
    """The pages that an array of 100 MB makes the kernel map, of many of which each is freed before the next.

    The median, since small pieces of Ray's other threads may come to lie where one was.
    """
    done = subprocess.run([sys.executable, "-c", _FAULTS, *address], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return float(done.stdout.splitlines()[-1])


def test_members_on_this_machine_use_what_they_freed_again():
    assert faults() < 2_000


def test_members_on_a_cluster_that_others_started_use_what_they_freed_again(monkeypatch):
    for name, value in {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "RAY_USAGE_STATS_ENABLED": "0"}.items():
        monkeypatch.setenv(name, value)
    assert "MALLOC_ARENA_MAX" not in os.environ
    pipe = subprocess.PIPE
    words = [sys.executable, "-c", _PLAIN_RAY]
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert faults(process.stdout.readline().strip()) < 2_000
        finally:
            process.communicate("")
