"""Rungs of a sweep: where they lie, what is refused, what a plan says of them, and what a run that has them accepts."""

import json
from dataclasses import replace

import pytest

from orchestrator.config.composition import compose
from orchestrator.plan.build import make_plan, used_datasets
from orchestrator.plan.diff import ChangeKind, compare
from orchestrator.plan.halving import estimate_halved
from orchestrator.plan.model import Plan, Rung, StageRef, plan_from_json, plan_to_json
from orchestrator.plan.report import make_report
from orchestrator.plan.schedule import estimate
from orchestrator.plan.widths import Widths
from workers.data.survey import Survey
from workers.errors import ConfigError

COUNTS = {"train": 900, "dev": 50, "val": 100}
HALVING = "sweep_stop=halving"


def plan(*words: str, points: int = 9, epochs: int = 27, counts: dict[str, int] = COUNTS) -> Plan:
    seeds = f"sweep.seed=[{','.join(map(str, range(points)))}]"
    config = compose(["ensemble=sweep", seeds, f"schedule.epochs={epochs}", "schedule=constant", *words])
    survey = Survey(tuple(f"class{number}" for number in range(10)), 10, counts, declared=False)
    return make_plan(config, dict.fromkeys(used_datasets(config), survey))


@pytest.fixture(scope="module")
def halved() -> Plan:
    return plan(HALVING)


def test_rungs_lie_at_powers_of_eta_and_keep_one_point_in_eta(halved):
    assert halved.rungs == (Rung(9, 3), Rung(3, 1))
    assert [rung.epochs(halved.stages[0]) for rung in halved.rungs] == [3, 9]
    assert plan(HALVING, "sweep_rungs=1", "sweep_eta=2", points=5, epochs=7).rungs == (Rung(2, 2),)
    rung = Rung(2, 2)
    assert rung.epochs(plan(epochs=7).stages[0]) == 4, "a share of epochs is reached at the end of one"


def test_halving_changes_neither_stages_nor_the_plans_hash(halved):
    assert replace(halved, rungs=()) == plan()


def test_plan_with_rungs_survives_json_and_one_without_them_is_read(halved):
    document = json.loads(json.dumps(plan_to_json(halved)))
    assert plan_from_json(document) == halved
    del document["rungs"]
    assert plan_from_json(document) == replace(halved, rungs=())


@pytest.mark.parametrize(
    ("words", "changes", "said"),
    [
        ([], {"points": 3}, r"sweep_rungs=2, sweep_eta=3: too few points \(3\); give 6, fewer rungs or a smaller eta"),
        (["sweep_rungs=1"], {"points": 1}, r"too few points \(1\); give 2"),
        ([], {"epochs": 3}, r"seed-0/train has too few epochs; give it 9, or fewer rungs"),
        (
            [],
            {"counts": {"train": 900, "test": 9}},
            r"sweep_stop=halving: decides by dev error; raise datasets\.target",
        ),
        (
            ["ensemble.template.stages.refit.refit=train"],
            {"counts": {**COUNTS, "test": 9}},
            r"sweep_stop=halving: decides by dev error; sweep without a refit",
        ),
    ],
)
def test_sweep_that_cannot_be_halved_is_refused_in_one_line(words, changes, said):
    with pytest.raises(ConfigError, match=rf"^[^\n]*{said}[^\n]*$"):
        plan(HALVING, *words, **changes)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ensemble=five", HALVING], "sweep_stop=halving: compares the points of a sweep alone; give ensemble=sweep"),
        (
            ["ensemble=sweep", "sweep.seed=[0,1]", "ensemble.members.x.stages.train.dataset=target", HALVING],
            "sweep_stop=halving: compares the points of a sweep alone",
        ),
        (["sweep_rungs=1"], "sweep_rungs=1: only sweep_stop=halving reads it; remove it"),
        (["sweep_eta=2"], "sweep_eta=2: only sweep_stop=halving reads it; remove it"),
        ([HALVING, "sweep_eta=1"], "sweep_eta=1: give 2 or more"),
        ([HALVING, "sweep_rungs=0"], "sweep_rungs=0: give 1 or more"),
        (["sweep_stop=halve"], "sweep_stop=halve"),
    ],
)
def test_setting_of_halving_that_cannot_be_is_refused_in_one_line(words, said):
    with pytest.raises(ConfigError) as caught:
        compose(words)
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("recorded", "wanted", "kind"),
    [
        ({"words": [HALVING]}, {"words": [HALVING]}, ChangeKind.same),
        ({"words": []}, {"words": [], "points": 10}, ChangeKind.extends),
        ({"words": []}, {"words": [HALVING]}, ChangeKind.differs),
        ({"words": [HALVING]}, {"words": []}, ChangeKind.differs),
        ({"words": [HALVING]}, {"words": [HALVING, "sweep_eta=2"]}, ChangeKind.differs),
        ({"words": [HALVING]}, {"words": [HALVING], "points": 10}, ChangeKind.differs),
        ({"words": [HALVING]}, {"words": [HALVING], "epochs": 28}, ChangeKind.differs),
    ],
)
def test_run_keeps_its_rungs_and_the_points_they_compared(recorded, wanted, kind):
    before, after = (
        plan(*one["words"], **{k: v for k, v in one.items() if k != "words"}) for one in (recorded, wanted)
    )
    found = compare(before, after)
    assert found.kind is kind
    assert kind is not ChangeKind.differs or found.lines[0].startswith("sweep_stop: ")


def test_plan_says_the_rungs_and_an_upper_bound_of_the_time(halved):
    rates = dict.fromkeys(halved.by_ref, 900.0)
    report = make_report(halved, compose([]).cluster, 1, rates)
    text = report.to_text()
    assert (
        "sweep_stop=halving: of 9 points, the best 3 from 1/9 of the epochs on, "
        "the best 1 from 1/3 of the epochs on\n" in text
    )
    # One second an epoch: 9 points to epoch 3, 3 to epoch 9, 1 to epoch 27.
    assert report.time.makespan_s == pytest.approx(9 * 3 + 3 * 6 + 18)
    assert "training: at most about" in text
    assert report.to_json()["rungs"] == [{"part": 9, "kept": 3}, {"part": 3, "kept": 1}]


def test_estimate_lets_the_costliest_points_go_on_and_waits_at_each_rung(halved):
    seconds = {ref: 27.0 * (1 + number) for number, ref in enumerate(halved.by_ref)}
    # With a slot for each point, every piece takes as long as the costliest point, which goes on to the end.
    assert estimate_halved(halved, seconds, 9, Widths()).makespan_s == pytest.approx(27.0 * 9)
    two = estimate_halved(halved, seconds, 2, Widths()).makespan_s
    assert 27.0 * 9 < two < estimate(halved, seconds, 2).makespan_s
    assert estimate_halved(replace(halved, rungs=()), seconds, 2, Widths()) == estimate(halved, seconds, 2)
    assert StageRef("seed-8", "train") in seconds
