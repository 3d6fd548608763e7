"""compose.yaml's services, as processes, carry a launch to Postgres and S3, and each of them may be killed.

Postgres is Debian's, and OpenStack Swift's S3 interface stands for SeaweedFS, which no package registry has; everything
else is started by the words of the file (tests/deployment/composed.py). It needs root, and pip to have Swift.
"""

import hashlib
import json
import re
import sys

import pytest
from compose_file import CHECKOUT
from composed import Composed, StandIn, why_not
from oracle import GROUP, SMALL, wait_for
from run_artefacts import artefacts
from stand_ins import POSTGRES, SWIFT, SWIFT_FOLDERS, SWIFT_HEALTH, installed, postgres_programs

from orchestrator.run.paths import RunPaths

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1500)]
# Long enough to train that a killed server is back before the end. On a busy machine MLflow's server may answer late.
LONGER = ("ensemble.stages.train.epochs=30", "ensemble.stages.finetune.epochs=25", "tracking.required=false")
WORDS = ("--config-dir=groups", *SMALL, *LONGER)
LAUNCH_S = 600.0


class Stack:
    """The services, and launches on them."""

    def __init__(self, composed):
        self.composed = composed
        self.work = composed.folder / "volumes" / "work"
        (self.work / "groups" / "ensemble").mkdir(parents=True)
        (self.work / "groups" / "ensemble" / "two.yaml").write_text(GROUP)

    def paths(self, name):
        return RunPaths(self.work / "runs" / name)

    def start_launch(self, name):
        """`docker compose run launch …`, once all services are healthy."""
        service = self.composed.services["launch"]
        for each, container in self.composed.containers.items():
            if container.health and not container.service.get("profiles"):
                self.composed.wait_until_healthy(each)
        self.composed.containers["launch"].log.unlink(missing_ok=True)
        words = [*service["entrypoint"], *WORDS, f"run_dir=runs/{name}"]
        return self.composed.start("launch", words).process

    def launch(self, name):
        process = self.start_launch(name)
        assert process.wait(LAUNCH_S) == 0, self.said()

    def said(self):
        return self.composed.containers["launch"].tail()

    def train_until_a_point(self, name):
        """A launch, as soon as one of its members has written a point."""
        process = self.start_launch(name)
        metrics = self.paths(name).members
        wait_for(
            lambda: (
                process.poll() is not None or any(path.stat().st_size for path in metrics.glob("*/*/metrics.jsonl"))
            ),
            self.said,
        )
        assert process.poll() is None, f"over before the kill: {self.said()}"
        return process

    def look(self, name):
        """What MLflow holds of a run, once it is found to be whole, if need be after one more launch.

        At its end a launch waits ten seconds for a store that does not answer; the next one sends the rest.
        """
        if "lacks" in self.said():
            self.launch(name)
        log = self.composed.folder / "look.log"
        words = [sys.executable, str(CHECKOUT / "tests/deployment/look.py"), f"runs/{name}"]
        before = self.composed.containers["launch"].log
        log.unlink(missing_ok=True)
        self.composed.containers["launch"].log = log
        try:
            code = self.composed.start("launch", words).process.wait(180)
        finally:
            self.composed.containers["launch"].log = before
        assert code == 0, log.read_text()
        return json.loads(log.read_text().splitlines()[-1])

    def sql(self, query):
        script = 'PGPASSWORD=$(cat /run/secrets/postgres_password) exec psql -h 127.0.0.1 -U mlflow -At -c "$0"'
        done = self.composed.execute("postgres", "sh", "-c", script, query)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    def keys_in_s3(self):
        script = (
            "import boto3, json; listing = boto3.client('s3').get_paginator('list_objects_v2'); "
            "pages = listing.paginate(Bucket='mlflow'); "
            "print(json.dumps([one['Key'] for page in pages for one in page.get('Contents', ())]))"
        )
        done = self.composed.execute("mlflow", "python", "-c", script)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    reason = why_not()
    if not reason and postgres_programs() is None:
        reason = "no postgres: apt-get install postgresql"
    if reason:
        pytest.skip(reason)
    tools, constraints = tmp_path_factory.mktemp("tools"), CHECKOUT / "constraints.txt"
    swift = installed(tools / "swift", sys.executable, constraints, "swift>=2.38")
    server = installed(tools / "server", sys.executable, constraints, "psycopg2-binary")
    if swift is None or server is None:
        pytest.skip("pip cannot have swift and psycopg2-binary here")
    (imports,) = server.glob("lib/python3*/site-packages")
    health = (str(swift / "bin" / "python"), "-c", SWIFT_HEALTH)
    stand_ins = {
        "postgres": StandIn(POSTGRES.format(programs=postgres_programs())),
        "s3": StandIn(SWIFT.format(programs=swift / "bin"), health, SWIFT_FOLDERS),
    }
    composed = Composed(tmp_path_factory.mktemp("stack"), {"SEPTET_WORKER_CPUS": "1"}, stand_ins, (imports,), (swift,))
    for name in ("s3_identities", "s3_credentials"):
        # Swift's keys are `account:user`.
        file = composed.folder / "secrets" / name
        file.write_text(re.sub(r'(aws_access_key_id = |"accessKey": ")', r"\1septet:", file.read_text()))
    try:
        composed.up()
        yield Stack(composed)
    finally:
        composed.close()


@pytest.fixture(scope="module")
def undisturbed(stack):
    """The bytes of a run that nothing befell."""
    stack.launch("undisturbed")
    found = artefacts(stack.paths("undisturbed"))
    assert len(found) == 3 + 2 * 3 + 3
    return found


def test_launch_lies_in_postgres_and_s3(stack, undisturbed):
    paths, held = stack.paths("undisturbed"), stack.look("undisturbed")
    for folder in (paths.submission, paths.report):
        for path in filter(lambda path: path.is_file(), folder.rglob("*")):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            assert held["artifacts"][str(path.relative_to(paths.root))] == digest
    assert {"submission/submission.csv", "submission/manifest.json", "report/index.html"} <= set(held["artifacts"])
    below = held["address"].removeprefix("mlflow-artifacts:/")
    assert {f"{below}/{name}" for name in held["artifacts"]} <= set(stack.keys_in_s3())
    # The parent, two members, three stages.
    assert stack.sql("select count(*), count(distinct run_uuid) from runs where status = 'FINISHED'") == ["6|6"]
    assert len(stack.sql("select distinct key from metrics where key = 'train/loss'")) == 1


def test_storage_is_out_of_the_members_reach(stack):
    reach = "import socket; socket.create_connection(('{}', {}), timeout=2)"
    where = {"postgres": 5432, "s3": 8333}
    for name, port in where.items():
        address = stack.composed.containers[name].addresses["storage"]
        assert stack.composed.execute("mlflow", "python", "-c", reach.format(name, port)).returncode == 0
        for target in (name, address):
            assert stack.composed.execute("ray-worker-1", "python", "-c", reach.format(target, port)).returncode != 0


@pytest.mark.parametrize("service", ["mlflow", "postgres", "s3", "ray-worker-1"])
def test_service_killed_and_restarted_costs_nothing(stack, undisturbed, service):
    name = f"killed-{service}"
    process = stack.train_until_a_point(name)
    stack.composed.kill(service)
    assert not stack.composed.healthy(service)
    stack.composed.restart(service)
    assert process.wait(LAUNCH_S) == 0, stack.said()
    assert artefacts(stack.paths(name)) == undisturbed
    assert {"submission/submission.csv", "report/index.html"} <= set(stack.look(name)["artifacts"])


def test_s3_that_is_away_at_the_end_gets_the_artifacts_with_the_next_launch(stack, undisturbed):
    process = stack.train_until_a_point("away")
    stack.composed.kill("s3")
    assert process.wait(LAUNCH_S) == 0, stack.said()
    assert artefacts(stack.paths("away")) == undisturbed
    assert "MLflow" in stack.said()
    stack.composed.restart("s3")
    stack.launch("away")
    assert {"submission/submission.csv", "report/index.html"} <= set(stack.look("away")["artifacts"])


def test_head_that_is_killed_ends_the_launch_and_the_same_command_continues(stack, undisturbed):
    process = stack.train_until_a_point("head")
    stack.composed.kill("ray-head")
    assert process.wait(LAUNCH_S) == 1, stack.said()
    stack.composed.restart("ray-head")
    stack.launch("head")
    assert artefacts(stack.paths("head")) == undisturbed
    assert "submission/submission.csv" in stack.look("head")["artifacts"]
