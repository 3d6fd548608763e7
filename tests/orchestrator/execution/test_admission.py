"""Admission in a run: a decision looks at the recipe's first members alone, and no arrival, kill or slot moves it."""

import hashlib
import itertools
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from driver_run import Killed, RecordingTracker, Run
from fake_stages import NUM_UPDATES, died, plan_of
from synthetic import Case, draw

from orchestrator.cluster.interface import Completed, Unfit
from orchestrator.combine.absent import left_out
from orchestrator.config.schema import AdmitConfig, CombineConfig, Metric
from orchestrator.fitting.admission import estimate_gain
from orchestrator.plan.model import StageRef, TrainJob
from orchestrator.run.ledger import AttemptEnd, State
from workers.errors import Diverged, MemberFailed

NAMES = tuple(f"base{number}" for number in range(6))
MEMBERS, LABELS = draw(Case(len(NAMES), 10, Metric.top1, 300), 1)
HIGHS = [estimate_gain(MEMBERS[:num], LABELS, Metric.top1, 0.9).high for num in range(2, len(NAMES))]
# Below the bounds after two and three members, above the one after four.
FAIR = AdmitConfig((min(HIGHS[:2]) + HIGHS[2]) / 2)
OUT_OF_REACH, NOTHING = AdmitConfig(0.5), AdmitConfig(0.0)
STOPPED = dict.fromkeys(NAMES[:4], False) | dict.fromkeys(NAMES[4:], True)


def prepared(root: Path, admit: AdmitConfig, num_slots: int = 1, **changes) -> Run:
    plan = changes.pop("plan", None) or plan_of({name: {"train": None} for name in NAMES})
    run = Run(root, plan, num_slots=num_slots, splits=("dev", "test"), admit=admit, **changes)
    run.fakes.probabilities = dict(zip(NAMES, MEMBERS, strict=True))
    data, rows = run.paths.data, "".join(f"{row}.png\n" for row in range(len(LABELS)))
    data.mkdir(parents=True, exist_ok=True)
    (data / "classes.txt").write_text("".join(f"class{number}\n" for number in range(10)))
    (data / "dev.rows.txt").write_text(rows)
    np.save(data / "dev.labels.npy", LABELS)
    np.save(data / "dev.sizes.npy", np.full((len(LABELS), 2), 32, np.int32))
    counts = {"train": 100, "dev": len(LABELS), "val": 0, "test": 0}
    about = {"digest": run.digest, "class_ids": [], "counts": counts, "unreadable": {"dev": []}}
    (data / "dataset.json").write_text(json.dumps(about))
    run.fakes.rows_sha256 = hashlib.sha256(rows.encode()).hexdigest()
    return run


def is_ended(run: Run) -> dict[str, bool]:
    gone = {one.member for one in left_out(CombineConfig(), run.plan, run.paths)}
    return {name: name in gone for name in run.plan.members}


def trained(run: Run) -> list[str]:
    return [name for name in run.fakes.started if not name.endswith("predictions")]


def test_fair_worth_lies_between_bounds():
    assert min(HIGHS[:2]) > FAIR.worth > HIGHS[2] > 0


def test_worth_out_of_reach_ends_all_but_the_first_two(tmp_path):
    run = prepared(tmp_path, OUT_OF_REACH)
    assert run.launch()
    assert run.fakes.started == [f"{name}/{what}" for name in NAMES[:2] for what in ("train", "predictions")]
    (decision,) = run.ledger.admission
    assert tuple(decision.members) == NAMES[:2] and decision.ended == NAMES[2:]
    assert run.ledger.stages["base5/train"].state is run.ledger.predictions["base5"].state is State.ended
    assert dict(run.tracker.ended) == {f"{name}/train": "FINISHED" for name in NAMES}
    (one, *_) = left_out(CombineConfig(), run.plan, run.paths)
    assert one.why.startswith("ended by ensemble.admit: one more than base0, base1 gains 0.0")
    assert one.why.endswith("of top1, worth 0.5")
    assert run.launch() and run.fakes.started == []
    assert run.tracker.tags == [], "the decision held all the time"


def test_worth_of_nothing_trains_all_also_where_the_bound_is_below_zero(tmp_path):
    run = prepared(tmp_path, NOTHING)
    # Two equal members of few errors, and one that adds errors: the next is estimated to harm.
    good, bad = np.full((2, len(LABELS), 10), 0.01, np.float32)
    good[np.arange(len(LABELS)), LABELS] = 0.91
    bad[np.arange(len(LABELS)), (LABELS + 1) % 10] = 0.91
    worse = [good, good, *[bad] * 4]
    run.fakes.probabilities = dict(zip(NAMES, worse, strict=True))
    assert run.launch()
    assert len(trained(run)) == len(NAMES) and not any(is_ended(run).values())
    assert [tuple(one.members) for one in run.ledger.admission] == [NAMES[:num] for num in range(2, len(NAMES))]
    assert min(one.gain[-1] for one in run.ledger.admission) < 0


def test_without_a_worth_nothing_is_decided_or_read(tmp_path):
    run = prepared(tmp_path, AdmitConfig())
    (run.paths.data / "dataset.json").unlink()
    assert run.launch()
    assert run.ledger.admission == () and len(trained(run)) == len(NAMES)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run = prepared(tmp_path_factory.mktemp("undisturbed"), FAIR)
    assert run.launch()
    assert is_ended(run) == STOPPED
    assert trained(run) == [f"{name}/train" for name in NAMES[:4]]
    return run.ledger.admission


@pytest.mark.parametrize("num_slots", [2, 6])
@pytest.mark.parametrize("late", ["base0", "base2"])
def test_decisions_are_the_same_whoever_is_there_first(tmp_path, undisturbed, num_slots, late):
    run = prepared(tmp_path, FAIR, num_slots)
    run.fakes.script = {f"{late}/train": [(step, died()) for step in (1, 4, 7)]}
    assert run.launch()
    assert run.ledger.admission == undisturbed
    assert is_ended(run) == STOPPED
    for name in NAMES[4:]:
        assert run.ledger.stages[f"{name}/train"].state is State.ended
    assert run.launch() and run.fakes.started == []


@pytest.mark.parametrize("seed", range(6))
def test_driver_killed_at_any_moment_decides_the_same(tmp_path, undisturbed, seed, monkeypatch):
    moments = random.Random(seed)
    run = prepared(tmp_path, FAIR, num_slots=moments.choice((1, 2, 6)))
    for _ in range(3):
        run.launch_killed(moments.randrange(24), before=moments.random() < 0.5, monkeypatch=monkeypatch)
        run.num_slots = moments.choice((1, 2, 6))
    assert run.launch()
    assert run.ledger.admission == undisturbed
    assert is_ended(run) == STOPPED
    assert {entry.state for entry in run.ledger.stages.values()} == {State.done, State.ended}


def test_decision_is_in_the_ledger_before_it_acts(tmp_path):
    run, seen = prepared(tmp_path, FAIR), []
    told = run.tracker.stage_finished

    def finished(ref, status, tags=None):
        if tags == {"septet.ended": "admission"}:
            seen.append([one.ended for one in run.ledger.admission])
        told(ref, status, tags)

    run.tracker.stage_finished = finished
    assert run.launch()
    assert seen == [[(), (), NAMES[4:]]] * 2


def test_driver_killed_before_it_stops_a_member_does_not_go_on_with_it(tmp_path):
    run, told = prepared(tmp_path, OUT_OF_REACH, num_slots=3), RecordingTracker.stage_finished
    run.fakes.waiting = frozenset({"base2/train"})

    def finished(ref, status, tags=None):
        if tags == {"septet.ended": "admission"}:
            raise Killed
        told(run.tracker, ref, status, tags)

    run.tracker.stage_finished = finished
    with pytest.raises(Killed):
        run.launch()
    run.cluster.stop("base2")
    for thread in run.cluster.threads:
        thread.join()
    run.tracker = RecordingTracker()
    assert run.launch() and run.fakes.started == []
    assert run.outcomes("base2/train") == [AttemptEnd.interrupted]
    assert run.ledger.stages["base2/train"].state is State.ended


def test_actor_that_is_told_to_stop_as_its_stage_ends_serves_no_other_member(tmp_path):
    run = prepared(tmp_path, OUT_OF_REACH, num_slots=3)
    run.fakes.waiting = frozenset({"base2/train"})
    real, looks = run.fakes.run_stage, itertools.count()

    def run_stage(spec, should_stop):
        """Waits until it is told to stop, as a stage does that ends just then, and is deaf to it."""
        return real(spec, lambda: should_stop() and next(looks) % 2 == 0)

    run.fakes.run_stage = run_stage
    assert run.launch()
    assert run.outcomes("base2/train") == [AttemptEnd.done]
    assert "base2" in run.cluster.discarded and "base2" not in run.cluster.released


def test_member_that_trains_is_stopped_and_goes_on_when_it_is_admitted(tmp_path):
    run = prepared(tmp_path, OUT_OF_REACH, num_slots=3)
    run.fakes.waiting = frozenset({"base2/train", "base3/train"})
    assert run.launch()
    assert run.outcomes("base2/train") == [AttemptEnd.stopped]
    assert run.ledger.stages["base2/train"].state is State.ended and run.ledger.state is not State.failed
    run.fakes.waiting, run.admit, run.tracker = frozenset(), AdmitConfig(), RecordingTracker()
    assert run.launch()
    assert ("base2/train", 1) not in run.fakes.updates and ("base2/train", NUM_UPDATES) in run.fakes.updates
    assert trained(run) == [f"{name}/train" for name in NAMES[2:]]
    assert run.ledger.admission == () and not any(is_ended(run).values())
    assert run.tracker.tags == [(f"{name}/train", "septet.ended", "no longer") for name in NAMES[2:]]
    assert run.launch() and run.fakes.started == []


def test_finished_run_is_decided_as_one_that_had_the_worth_from_the_start(tmp_path, undisturbed):
    run = prepared(tmp_path, AdmitConfig(), num_slots=3)
    assert run.launch()
    run.admit = FAIR
    assert run.launch() and run.fakes.started == []
    assert run.ledger.admission == undisturbed and is_ended(run) == STOPPED
    run.admit = NOTHING
    assert run.launch() and run.fakes.started == []
    assert not any(is_ended(run).values())


def test_member_added_to_a_recipe_that_was_ended_is_not_trained(tmp_path):
    run = prepared(tmp_path, OUT_OF_REACH, plan=plan_of({name: {"train": None} for name in NAMES[:4]}))
    assert run.launch()
    before = run.ledger.admission[0]
    run.plan = plan_of({name: {"train": None} for name in (*NAMES, "other")})
    run.fakes.probabilities["other"] = MEMBERS[0]
    assert run.launch() and run.fakes.started == []
    assert run.ledger.admission == (replace(before, ended=(*NAMES[2:], "other")),)


def test_failure_leaves_its_recipe_undecided_until_the_member_is_there(tmp_path, undisturbed):
    run = prepared(tmp_path, FAIR)
    run.fail_once("base1/train")
    assert run.ledger.admission == () and not any(is_ended(run).values())
    assert len(run.ledger.stages) == len(NAMES)
    assert run.launch()
    assert run.ledger.admission == undisturbed and is_ended(run) == STOPPED


def test_failure_of_a_member_that_is_ended_fails_nothing(tmp_path):
    run = prepared(tmp_path, OUT_OF_REACH, num_slots=3)
    run.fakes.script = {
        "base1/train": [(5, died())] * 3,
        "base2/train": [(1, Diverged("loss nan", step=1))] * 9,
    }
    assert run.launch()
    assert run.ledger.stages["base2/train"].state is State.ended
    run.admit = AdmitConfig()
    with pytest.raises(MemberFailed, match="loss nan"):
        run.launch()


def test_member_that_a_node_refuses_as_it_is_ended_stays_ended(tmp_path):
    run = prepared(tmp_path, OUT_OF_REACH)
    assert run.launch()
    job, driver = TrainJob(StageRef("base5", "train")), run.driver()
    assert driver.take_stock()
    # Its outcome was on its way when the decision fell.
    driver._busy, driver._cluster = {"base5": job}, run.cluster
    driver._ledger.begin(job, started=0.0, resumed_from=0)
    driver._settle(Completed("base5", Unfit("it has other code")))
    assert run.outcomes("base5/train") == [AttemptEnd.refused]
    assert run.ledger.stages["base5/train"].state is State.ended


def test_member_left_out_by_hand_is_trained_and_decides_nothing(tmp_path):
    run = prepared(tmp_path, OUT_OF_REACH, without=("base0",))
    assert run.launch()
    assert trained(run) == [f"{name}/train" for name in NAMES[:3]]
    assert tuple(run.ledger.admission[0].members) == NAMES[1:3]


def test_members_of_several_stages_finish_one_after_another_and_ancestors_of_others_are_trained(tmp_path):
    chains = {name: {"pre": None, "fine": f"{name}/pre"} for name in NAMES[:5]}
    plan = plan_of(chains | {"base5": {"tune": "base4/pre"}}, {"base5/tune": 2})
    run = prepared(tmp_path, OUT_OF_REACH, plan=plan)
    assert run.launch()
    order = [f"{name}/{stage}" for name in NAMES[:2] for stage in ("pre", "fine")]
    assert [name for name in trained(run) if name.startswith(("base0", "base1"))] == order
    assert set(trained(run)) == {*order, "base4/pre", "base5/tune"}
    assert is_ended(run) == {name: name in NAMES[2:5] for name in NAMES}


def test_ledger_of_a_launch_that_decided_is_read_again_as_it_was(tmp_path, undisturbed):
    run = prepared(tmp_path, FAIR)
    assert run.launch()
    document = json.loads(run.paths.ledger.read_text())
    assert [one["ended"] for one in document["admission"]] == [[], [], list(NAMES[4:])]
    # As earlier releases wrote it.
    del document["admission"]
    run.paths.ledger.write_text(json.dumps(document))
    assert run.ledger.admission == ()
    assert run.launch() and run.ledger.admission == undisturbed
