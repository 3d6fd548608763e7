"""The driver on threads with stages that train nothing: order, budgets, stops, resumes, extensions."""

import json
import threading
from dataclasses import replace

import pytest
from driver_run import SEVEN, Run
from fake_stages import NUM_UPDATES, died, make_plan, make_stage, plan_of
from local_actors import LocalActors
from redone import redone_updates

from orchestrator.plan.model import OutsideFile, StageRef, TrainJob
from orchestrator.run.ledger import AttemptEnd, Budgets, Ledger, State
from workers.errors import CheckFailed, DataError, Diverged, MemberFailed, SeptetError, StorageError
from workers.settings import ModelSettings
from workers.settings.training import Crops


@pytest.fixture
def seven(tmp_path):
    return Run(tmp_path, plan_of(SEVEN))


def test_driver_undisturbed_trains_every_stage_once_after_its_ancestor_and_predicts(seven):
    assert seven.launch()
    started = seven.fakes.started
    wanted = [*map(str, seven.plan.by_ref), *(f"{member}/predictions" for member in seven.plan.members)]
    assert sorted(started) == sorted(wanted)
    assert all(started.index(f"wide{n}/pre") < started.index(f"wide{n}/fine") for n in range(2))
    assert all((seven.paths.done(ref)).exists() for ref in seven.plan.by_ref)
    assert {entry.state for entry in seven.ledger.stages.values()} == {State.done}
    assert sorted(seven.tracker.ended) == sorted((str(ref), "FINISHED") for ref in seven.plan.by_ref)
    assert len(set(seven.tracker.points)) == len(seven.plan.stages) * NUM_UPDATES
    assert seven.fakes.crops == dict.fromkeys(seven.plan.members, Crops.centre)


@pytest.mark.slow
def test_driver_starts_the_longest_chain_first_and_keeps_a_members_actor_over_its_stages(seven):
    assert seven.launch()
    assert set(seven.cluster.acquired[:2]) == {"wide0", "wide1"}
    assert seven.cluster.num_started == seven.num_slots, "actors are handed on, not started again"
    # LocalActors raises where a slot is missing, so that this is over is the evidence that one slot is enough.
    for name, slots in (("seven", 7), ("one", 1)):
        run = Run(seven.root / name, seven.plan, num_slots=slots)
        assert run.launch()
        assert len(run.cluster.acquired) == len(run.cluster.released) + len(run.cluster.discarded)
        assert slots == 1 or sorted(run.cluster.acquired) == sorted(run.plan.members)


def test_driver_asks_for_actors_by_the_code_that_a_member_imports(tmp_path):
    asked = []

    class Actors(LocalActors):
        def acquire(self, member, width=1, code=""):
            asked.append((member, code))
            super().acquire(member, width, code)

    own = {"a/train": "X", "b/pre": "", "b/fine": "Y"}
    stages = {name: make_stage(name, model=ModelSettings(code=code)) for name, code in own.items()}
    stages["b/fine"] = replace(stages["b/fine"], init_from=StageRef("b", "pre"))
    run = Run(tmp_path, make_plan(*stages.values()), num_slots=1)
    driver = run.driver()
    driver.take_stock()
    assert driver.run(Actors(1, run.fakes.duties), lambda: False, lambda: None)
    assert sorted(asked) == [("a", "X"), ("b", ""), ("b", "Y")]


def test_driver_waits_with_a_stage_until_another_members_ancestor_is_done(tmp_path):
    run = Run(tmp_path, plan_of({"a": {"pre": None, "fine": "a/pre"}, "b": {"fine": "a/pre"}}))
    assert run.launch()
    assert run.fakes.started[0] == "a/pre"
    assert run.fakes.started.count("a/pre") == 1


def test_driver_gives_a_member_from_outside_no_job(tmp_path):
    outside = {"other": {"test": OutsideFile("/x.npy", "1")}}
    run = Run(tmp_path, replace(plan_of({"a": {"train": None}}), members=("other", "a"), outside=outside))
    assert run.launch()
    assert run.fakes.started == ["a/train", "a/predictions"]


def test_driver_on_a_finished_run_starts_nothing_and_with_other_pixels_predicts_again_alone(seven):
    assert seven.launch()
    before = {path: path.stat().st_mtime_ns for path in seven.root.rglob("*.npy")}
    assert seven.launch()
    assert seven.fakes.started == []
    assert before == {path: path.stat().st_mtime_ns for path in seven.root.rglob("*.npy")}
    seven.digest = "d2"
    assert seven.launch()
    assert sorted(seven.fakes.started) == sorted(f"{member}/predictions" for member in seven.plan.members)


@pytest.mark.parametrize("damage", ["missing", "cut short", "of another checkpoint"])
def test_driver_redoes_predictions_that_are_not_whole(seven, damage):
    assert seven.launch()
    array, about = (seven.paths.predictions("base1") / f"test.{end}" for end in ("npy", "json"))
    if damage == "missing":
        array.unlink()
    elif damage == "cut short":
        array.write_bytes(array.read_bytes()[:-4])
    else:
        about.write_text(json.dumps({**json.loads(about.read_text()), "checkpoint_sha256": "another"}))
    assert seven.launch()
    assert seven.fakes.started == ["base1/predictions"]


def test_driver_after_an_actors_death_resumes_from_the_newest_checkpoint(seven):
    seven.fakes.script = {"wide0/pre": [(8, died()), (7, died())]}
    assert seven.launch()
    assert seven.outcomes("wide0/pre") == [AttemptEnd.lost, AttemptEnd.lost, AttemptEnd.done]
    attempts = seven.ledger.stages["wide0/pre"].attempts
    assert [attempt.resumed_from for attempt in attempts] == [0, 6, 6]
    assert [attempt.last_step for attempt in attempts] == [8, 7, NUM_UPDATES]
    steps = [step for ref, step in seven.fakes.updates if ref == "wide0/pre"]
    assert steps == [*range(1, 9), 7, *range(7, 11)]
    redone = len(steps) - NUM_UPDATES
    assert redone_updates(seven.ledger.stages["wide0/pre"]) == redone == 3


def test_driver_counts_failures_and_losses_apart_and_never_uses_an_actor_again_that_met_one(seven):
    seven.num_slots = 1
    seven.budgets = Budgets(max_losses=2, max_failures=1)
    seven.fakes.script = {"base0/train": [(4, died()), (5, OSError("a cable")), (7, died())]}
    assert seven.launch()
    assert seven.outcomes("base0/train") == [AttemptEnd.lost, AttemptEnd.failed, AttemptEnd.lost, AttemptEnd.done]
    assert seven.cluster.num_started == 1 + 3
    assert seven.cluster.discarded.count("base0") == 3


@pytest.mark.parametrize(("trouble", "allowed"), [("lost", 2), ("failed", 1)])
def test_driver_with_a_budget_spent_names_stage_and_reason_after_the_others_are_through(seven, trouble, allowed):
    seven.budgets = Budgets(max_losses=2, max_failures=1)
    error = died() if trouble == "lost" else RuntimeError("a bolt is loose")
    seven.fakes.script = {"wide0/pre": [(2, error)] * 9}
    with pytest.raises(MemberFailed, match=r"wide0/pre: .*(killed by the test|a bolt is loose).*log\.txt"):
        seven.launch()
    assert seven.fakes.started.count("wide0/pre") == allowed + 1
    assert "wide0/fine" not in seven.fakes.started
    others = set(seven.plan.members) - {"wide0"}
    assert {f"{member}/predictions" for member in others} <= set(seven.fakes.started)
    assert seven.ledger.state is State.failed
    assert seven.ledger.stages["wide0/pre"].state is State.failed
    assert ("wide0/pre", "FAILED") in seven.tracker.ended


def test_driver_launched_again_after_a_failure_has_a_fresh_budget(seven):
    seven.fail_once("base0/train")
    assert seven.launch()
    assert seven.fakes.started == ["base0/train", "base0/predictions"]
    assert seven.outcomes("base0/train") == [AttemptEnd.failed, AttemptEnd.done]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Diverged("loss nan"), 4),
        (MemoryError("too big"), 4),
        (DataError("no images"), 3),
        (StorageError("disk full"), 7),
        (CheckFailed("weights differ"), 8),
    ],
)
def test_driver_does_not_retry_what_would_fail_again_and_keeps_its_exit_code(seven, error, code):
    seven.fakes.script = {"base0/train": [(2, error)]}
    with pytest.raises(SeptetError, match=f"base0/train: {error}") as caught:
        seven.launch()
    assert caught.value.exit_code == code
    assert seven.fakes.started.count("base0/train") == 1


def test_driver_with_predictions_that_are_no_probabilities_ends_with_the_check_untried_again(seven):
    seven.fakes.script = {"base0/predictions": [(0, CheckFailed("predictions of val are not finite"))]}
    with pytest.raises(CheckFailed, match="base0/predictions: predictions of val"):
        seven.launch()
    assert seven.fakes.started.count("base0/predictions") == 1
    assert seven.ledger.predictions["base0"].state is State.failed
    assert not seven.driver().take_stock()
    assert seven.ledger.predictions["base0"].state is State.waiting, "the next launch tries again"


def test_driver_asked_to_stop_has_every_actor_checkpoint_and_the_next_launch_redoes_nothing(seven):
    seven.fakes.waiting = frozenset({"wide0/pre", "wide1/pre"})
    assert not seven.launch(stop_when="wide1/pre")
    assert sorted(seven.fakes.started) == ["wide0/pre", "wide1/pre"]
    assert seven.outcomes("wide0/pre") == [AttemptEnd.stopped]
    assert seven.ledger.state is State.stopped
    assert ("wide0/pre", "KILLED") in seven.tracker.ended
    assert sorted(seven.cluster.discarded) == ["wide0", "wide1"]
    before = list(seven.fakes.updates)
    seven.fakes.waiting = frozenset()
    assert seven.launch()
    both = before + seven.fakes.updates
    assert len(both) == len(set(both)) == len(seven.plan.stages) * NUM_UPDATES, "an update was made twice"


def test_driver_asked_to_stop_does_not_wait_for_members_that_have_nothing_to_save(seven):
    over = threading.Event()

    def starting(spec, should_stop):
        """Deaf, as a process that imports torch is."""
        seven.fakes.started.append(f"{spec.member}/{spec.stage}")
        over.wait(250)
        raise OSError("was waited for")

    seven.fakes.run_stage = starting
    assert not seven.launch(stop_when="wide1/pre")
    assert seven.outcomes("wide0/pre") == seven.outcomes("wide1/pre") == [AttemptEnd.stopped]
    over.set()


def test_driver_asked_to_stop_while_members_predict_stops_them_too(seven):
    seven.fakes.waiting = frozenset({"base0/predictions"})
    assert not seven.launch(stop_when="base0/predictions")
    assert seven.outcomes("base0/predictions") == [AttemptEnd.stopped]
    seven.fakes.waiting = frozenset()
    assert seven.launch()
    assert seven.outcomes("base0/predictions") == [AttemptEnd.stopped, AttemptEnd.done]


def test_driver_launched_again_after_its_own_death_closes_the_open_attempt(seven):
    ledger = Ledger(seven.paths.ledger)
    ledger.set_state(State.running)
    ledger.begin(TrainJob(StageRef("base0", "train")), started=1.0, resumed_from=0)
    assert seven.launch()
    assert seven.outcomes("base0/train") == [AttemptEnd.interrupted, AttemptEnd.done]


def test_driver_with_an_extended_plan_leaves_what_is_done_alone(seven):
    assert seven.launch()
    done = {ref: seven.paths.done(ref).read_bytes() for ref in seven.plan.by_ref}
    seven.plan = plan_of({**SEVEN, "base5": {"train": None}, "base0": {"train": None, "more": "base0/train"}})
    assert seven.launch()
    assert sorted(seven.fakes.started) == ["base0/more", "base0/predictions", "base5/predictions", "base5/train"]
    assert done == {ref: seven.paths.done(ref).read_bytes() for ref in done}
