"""What members cost: shared ancestors, attempts that were lost, and ledgers that say less."""

import json

import pytest
from fake_stages import make_plan, make_stage

from orchestrator.combine.absent import Missing, without
from orchestrator.plan.model import PredictJob, StageRef, TrainJob
from orchestrator.run.costs import core_seconds
from orchestrator.run.ledger import AttemptEnd, Ledger, State
from orchestrator.run.paths import RunPaths

SECONDS = {"a/train": 10.0, "trunk/pre": 60.0, "trunk/fine": 6.0, "twig/fine": 3.0, "leaf/fine": 1.0}


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def plan():
    return make_plan(
        make_stage("a/train"),
        make_stage("trunk/pre", dataset="superset"),
        *(make_stage(f"{member}/fine", "trunk/pre") for member in ("trunk", "twig", "leaf")),
    )


@pytest.fixture
def paths(tmp_path):
    return RunPaths(tmp_path)


def work(paths, jobs):
    clock = Clock()
    ledger = Ledger(paths.ledger, clock)
    for job, seconds, outcome in jobs:
        ledger.begin(job, started=clock.now, resumed_from=0)
        clock.now += seconds
        if outcome is not None:
            ledger.end(job, outcome, State.done)


def train(name):
    return TrainJob(StageRef.parse(name))


def test_costs_of_shared_ancestors_add_up_to_the_whole(paths, plan):
    jobs = [(train(name), seconds, AttemptEnd.done) for name, seconds in SECONDS.items()]
    predicted = [(PredictJob(plan.last_stages[member]), 0.5, AttemptEnd.done) for member in plan.members]
    work(paths, [*jobs, *predicted])
    costs = core_seconds(paths, plan, threads=2)
    assert costs == {"a": 21.0, "trunk": 53.0, "twig": 47.0, "leaf": 43.0}
    assert sum(costs.values()) == 2 * (sum(SECONDS.values()) + 4 * 0.5)


def test_costs_of_members_left_are_those_of_what_they_use(paths, plan):
    work(paths, [(train(name), seconds, AttemptEnd.done) for name, seconds in SECONDS.items()])
    fewer = without(plan, [Missing("trunk", ""), Missing("leaf", "")])
    assert core_seconds(paths, fewer, threads=1) == {"a": 10.0, "twig": 63.0}


def test_costs_lost_attempts_count_and_a_stage_without_any_is_unknown(paths, plan):
    lost = [(train("a/train"), 4.0, AttemptEnd.lost), (train("a/train"), 10.0, AttemptEnd.done)]
    work(paths, [*lost, (train("trunk/pre"), 60.0, AttemptEnd.done)])
    assert core_seconds(paths, plan, threads=1) == {"a": 14.0, "trunk": None, "twig": None, "leaf": None}


def test_costs_of_an_attempt_without_an_end_reach_to_its_last_metrics(paths, plan):
    work(paths, [(train("a/train"), 100.0, None)])
    work(paths, [])
    paths.stage(StageRef("a", "train")).mkdir(parents=True)
    lines = [{"step": step, "epoch": step, "time": 1000.0 + 7 * step, "metrics": {}} for step in (1, 2)]
    paths.metrics(StageRef("a", "train")).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert core_seconds(paths, plan, threads=1)["a"] == 14.0
    # As an earlier release wrote it.
    contents = json.loads(paths.ledger.read_text())
    assert contents["stages"]["a/train"]["attempts"][0].pop("ended") is None
    paths.ledger.write_text(json.dumps(contents))
    assert core_seconds(paths, plan, threads=1)["a"] == 14.0
