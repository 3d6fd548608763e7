"""docker/slurm/septet.sbatch on a Slurm of two nodes: jobs that end, are stopped, queue again, or do not start."""

import shutil
import sys
import tempfile
import time
from pathlib import Path

import pytest
from oracle import CHECKOUT, GROUP, SMALL, child_environment
from slurm_cluster import await_that, slurm_cluster

from orchestrator.plan import StageRef
from orchestrator.run.ledger import AttemptEnd, read_ledger
from orchestrator.run.paths import RunPaths

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]
GIVE_UP_S = 600.0
UNFINISHED = ("PENDING", "RUNNING", "COMPLETING", "REQUEUED")
LONG = ("ensemble.stages.train.epochs=2000", "ensemble.stages.finetune.epochs=2000", "checkpoint_updates=50")


@pytest.fixture(scope="module")
def slurm():
    # Short, since Ray's and munge's sockets lie below it.
    folder = Path(tempfile.mkdtemp(prefix="sl-", dir="/tmp"))
    try:
        with slurm_cluster(folder, 2) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def job(slurm):
    folder = Path(tempfile.mkdtemp(prefix="job-", dir=slurm.folder))
    yield Job(slurm, folder)
    slurm.run("scancel", "--quiet", "--full", "--signal=KILL", "--me")
    slurm.run("scancel", "--quiet", "--me")
    nodes = ("sinfo", "--Node", "--noheader", "--format=%t")
    await_that(lambda: set(slurm.run(*nodes).split()) == {"idle"}, GIVE_UP_S, slurm.folder / "slurmctld.log")


class Job:
    """One run directory on the shared storage, and the jobs that train it."""

    def __init__(self, slurm, folder):
        self.slurm, self.folder = slurm, folder
        self.paths = RunPaths(folder / "run")
        self.log = folder / "log.txt"
        programs = folder / "programs"
        programs.mkdir()
        for name, module in (("septet", "orchestrator.cli.program"), ("ray", "ray.scripts.scripts")):
            (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} -P -m {module} "$@"\n')
            (programs / name).chmod(0o755)
        given = child_environment()
        self.environment = {"PATH": f"{programs}:{given['PATH']}", "PYTHONPATH": given["PYTHONPATH"]}
        # Not the token that tests have, nor loopback alone.
        self.environment |= {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
        self.environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "1"
        (folder / "groups" / "ensemble").mkdir(parents=True)
        (folder / "groups" / "ensemble" / "two.yaml").write_text(GROUP)

    def submit(self, *words, **environment):
        """Queues the script for two nodes; its number."""
        own = (f"run_dir={self.paths.root}", f"datasets.store={self.slurm.folder / 'store'}")
        tracking = f"tracking.uri=sqlite:///{self.folder / 'mlflow.db'}"
        options = ("--parsable", "--time=60", f"--chdir={self.folder}", f"--output={self.log}")
        script = CHECKOUT / "docker" / "slurm" / "septet.sbatch"
        launch = (f"--config-dir={self.folder / 'groups'}", *SMALL, *own, tracking, *words)
        return self.slurm.run("sbatch", *options, script, *launch, **self.environment, **environment).strip()

    def ended(self, number):
        """Slurm's state and exit code of a job at its end."""
        await_that(lambda: self.slurm.job(number)["JobState"] not in UNFINISHED, GIVE_UP_S, self.log)
        told = self.slurm.job(number)
        return told["JobState"], told["ExitCode"]

    def attempts(self):
        if not self.paths.ledger.exists():
            return []
        return [one for entry in read_ledger(self.paths.ledger).stages.values() for one in entry.attempts]

    def count(self, outcome):
        """How many attempts ended so; None: have not ended."""
        return sum(one.outcome is outcome for one in self.attempts())

    def trains(self):
        """Waits until two members train, each with a checkpoint of its own to resume from."""

        def running():
            stages = read_ledger(self.paths.ledger).stages if self.paths.ledger.exists() else {}
            found = [(StageRef.parse(ref), one) for ref, entry in stages.items() for one in entry.attempts]
            saved = [one for ref, one in found if list(self.paths.stage(ref).glob("checkpoints/step-*"))]
            return [one for one in saved if one.outcome is None and one.where]

        def does():
            return len(running()) == 2

        await_that(does, GIVE_UP_S, self.log)
        # The members' nodes differ, and the token is nobody else's.
        assert {one.where.node for one in running()} == {"n1", "n2"}
        (private,) = self.folder.glob(".ray-*")
        assert (private.stat().st_mode & 0o777, (private / "token").stat().st_mode & 0o777) == (0o700, 0o600)

    def nothing_is_left(self):
        """No token, and no Ray on a node, once the job has ended."""
        assert not list(self.folder.glob(".ray-*"))
        words = ("srun", "--nodes=2", "sh", "-c", "! pgrep -l 'raylet|gcs_server'")
        assert self.slurm.run(*words) == ""


def test_job_trains_to_a_submission_with_the_nodes_of_its_allocation(job):
    number = job.submit()
    assert job.ended(number) == ("COMPLETED", "0:0"), job.log.read_text()[-3000:]
    assert (job.paths.submission / "submission.csv").exists()
    assert {one.outcome for one in job.attempts()} == {AttemptEnd.done}
    job.nothing_is_left()


def test_job_that_is_stopped_checkpoints_with_143_and_resumes(job):
    number = job.submit(*LONG)
    job.trains()
    job.slurm.run("scancel", "--signal=TERM", "--batch", number)
    assert job.ended(number) == ("FAILED", "143:0"), job.log.read_text()[-3000:]
    assert job.count(AttemptEnd.stopped) == 2
    job.nothing_is_left()
    number = job.submit(*LONG)
    job.trains()
    job.slurm.run("scancel", number)
    assert job.ended(number)[0] == "CANCELLED"
    assert job.count(None) == 0


def test_job_whose_time_is_up_checkpoints_and_joins_the_queue_again(job):
    number = job.submit(*LONG)
    job.trains()
    began = time.monotonic()
    # What --signal=B:USR1@120 sends.
    job.slurm.run("scancel", "--signal=USR1", "--batch", number)
    await_that(lambda: job.slurm.job(number)["Restarts"] == "1", 120, job.log)
    assert time.monotonic() - began < 120
    assert job.count(AttemptEnd.stopped) == 2
    job.trains()


def test_job_on_a_node_where_ray_does_not_start_says_so_with_exit_code_1(job):
    (job.folder / "programs" / "ray").write_text(
        "#!/bin/sh\ncase $(hostname):$2 in n2:--address) echo no Ray here >&2; exit 1 ;; esac\n"
        f'exec {sys.executable} -P -m ray.scripts.scripts "$@"\n'
    )
    number = job.submit()
    began = time.monotonic()
    assert job.ended(number) == ("FAILED", "1:0")
    assert time.monotonic() - began < 120
    assert "Ray did not start on all of n[1-2]" in job.log.read_text()
    assert not job.paths.root.exists()
