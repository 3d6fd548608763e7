"""Members of several workers: the driver on threads that train nothing, and its choice on a clock of its own."""

import threading
from dataclasses import replace

import pytest
from driver_run import Run
from fake_stages import NUM_UPDATES, make_plan, make_stage
from local_actors import LocalActors

from orchestrator.cluster.interface import Where
from orchestrator.execution.pace import Pace
from orchestrator.execution.widths import WidthChoice
from orchestrator.plan import TrainJob, Widths
from orchestrator.run.ledger import AttemptEnd, Budgets, Ledger, State, read_ledger
from workers.settings.training import OptimizerSettings, ScheduleSettings

WIDE = Widths(1, 8)


def plan_of(num_members, epochs=90):
    recipe = {"optimizer": OptimizerSettings(shards=8), "schedule": ScheduleSettings(epochs=epochs)}
    return make_plan(*(make_stage(f"m{number}/train", **recipe) for number in range(num_members)))


class Watched:
    """A choice whose ledger, clock and running jobs a test moves."""

    def __init__(self, path, num_members, num_slots, widths=WIDE):
        self.now, self.num_slots = 1000.0, num_slots
        self.plan, self.ledger = plan_of(num_members), Ledger(path / "ledger.json")
        pace = Pace(self.plan, widths, self.ledger, lambda: self.now)
        self.choice = WidthChoice(widths, self.ledger, lambda: self.now, pace)
        self.running, self.done, self.moving = {}, set(), set()

    def look(self, after=0.0, kept_out=0):
        self.now += after
        starts, changes = self.choice.starts(
            self.plan, self.done, self.running, self.num_slots, (), self.moving, kept_out
        )
        return {str(ref): width for ref, width in starts.items()}, list(changes)

    def start(self, member, width, step=0):
        job = TrainJob(self.plan.last_stages[member])
        self.ledger.begin(job, started=self.now, resumed_from=step, width=width)
        self.running[job] = width
        return job

    def reach(self, step):
        for job in self.running:
            self.ledger.reach(job, step)


def test_seven_members_on_sixteen_slots_start_wide(tmp_path):
    starts, changes = Watched(tmp_path, 7, 16).look()
    assert len(starts) == 7 and sum(starts.values()) == 16 and min(starts.values()) == 2
    assert not changes


def test_a_member_is_widened_after_slots_were_idle_for_a_minute_and_only_if_its_rate_says_that_it_pays(tmp_path):
    watched = Watched(tmp_path, 1, 4)
    watched.start("m0", 1)
    assert watched.look() == ({}, [])
    assert watched.look(after=61) == ({}, []), "no rate is known"
    watched.reach(1)
    assert watched.look(after=6) == ({}, ["m0"]), "9 updates at 67 s each are left"
    watched.moving.add("m0")
    assert watched.look(after=6) == ({}, [])
    quick = Watched(tmp_path / "quick", 1, 4)
    quick.start("m0", 1)
    for _ in range(20):
        quick.reach(9)
        assert quick.look(after=10) == ({}, []), "one update is left"


def test_a_change_waits_for_a_minute_since_the_last_and_the_next_look_undoes_nothing(tmp_path):
    watched = Watched(tmp_path, 2, 6)
    watched.start("m0", 4)
    watched.reach(1)
    starts, changes = watched.look()
    assert starts == {"m1/train": 2} and not changes
    watched.start("m1", 2)
    for _ in range(30):
        watched.reach(2)
        assert watched.look(after=10) == ({}, [])


def test_a_member_is_narrowed_when_another_waits_and_a_prediction_counts_as_one(tmp_path):
    watched = Watched(tmp_path, 2, 4)
    watched.start("m0", 4)
    watched.reach(1)
    assert watched.look(after=30) == ({}, []), "its width is less than a minute old"
    assert watched.look(after=31) == ({}, ["m0"])
    alone = Watched(tmp_path / "alone", 1, 4)
    alone.start("m0", 4)
    alone.reach(1)
    assert alone.look(after=61) == ({}, [])
    assert alone.look(after=6, kept_out=1) == ({}, ["m0"])


def test_a_drained_node_narrows_the_members_that_stay(tmp_path):
    watched = Watched(tmp_path, 2, 8)
    watched.start("m0", 4)
    watched.start("m1", 4)
    watched.reach(1)
    assert watched.look(after=120) == ({}, [])
    watched.num_slots = 4
    watched.moving.add("m1")
    assert watched.look(after=6) == ({}, ["m0"])


def test_width_one_starts_what_ready_says_and_changes_nothing(tmp_path):
    watched = Watched(tmp_path, 7, 16, Widths())
    assert watched.look() == ({f"m{number}/train": 1 for number in range(7)}, [])
    watched.start("m0", 1)
    watched.reach(1)
    assert watched.look(after=600)[1] == []


class WideRun(Run):
    """Launches whose members may have up to four workers."""

    def work(self):
        return replace(super().work(), widths=Widths(1, 4))


@pytest.fixture
def wide(tmp_path):
    return WideRun(tmp_path, plan_of(2), num_slots=4, budgets=Budgets(max_losses=0, max_failures=0))


def test_driver_gives_members_their_widths_and_predictions_one_worker(wide):
    asked = []
    real = wide.fakes.run_stage
    wide.fakes.run_stage = lambda spec, stop: (asked.append((spec.member, spec.width)), real(spec, stop))[1]
    assert wide.launch()
    assert sorted(asked) == [("m0", 2), ("m1", 2)]
    ledger = wide.ledger
    assert {one.width for entry in ledger.stages.values() for one in entry.attempts} == {2}
    assert {one.width for entry in ledger.predictions.values() for one in entry.attempts} == {1}


def test_driver_changes_a_width_without_a_cost_to_the_budget_and_loses_no_update(wide):
    """The choice is made to ask for one change; the member saves what it has and starts again."""
    wide.fakes.waiting = frozenset({"m0/train"})
    driver, asked = wide.driver(), threading.Event()
    real = driver._starting._widths.starts

    def starts(*given):
        found, _ = real(*given)
        if "m0/train" in wide.fakes.started and not asked.is_set():
            asked.set()
            return found, ["m0"]
        if wide.fakes.started.count("m0/train") > 1:
            wide.fakes.waiting = frozenset()
        return found, ()

    driver._starting._widths.starts = starts
    wide.driver = lambda: driver
    assert wide.launch()
    assert wide.outcomes("m0/train") == [AttemptEnd.preempted, AttemptEnd.done]
    steps = [step for ref, step in wide.fakes.updates if ref == "m0/train"]
    assert steps == list(range(1, NUM_UPDATES + 1)), "an update was made twice"


def test_driver_killed_and_launched_with_fewer_slots_resumes_at_another_width(wide, monkeypatch):
    assert wide.launch_killed(2, before=False, monkeypatch=monkeypatch)
    wide.num_slots = 2
    assert wide.launch()
    widths = [one.width for entry in wide.ledger.stages.values() for one in entry.attempts]
    assert set(widths) == {1, 2}
    assert {entry.state for entry in wide.ledger.stages.values()} == {State.done}


def test_ledgers_of_earlier_releases_have_no_width(tmp_path):
    ledger = Ledger(tmp_path / "ledger.json")
    ledger.begin(TrainJob(plan_of(1).stages[0].ref), started=1.0, resumed_from=0, width=1)
    text = (tmp_path / "ledger.json").read_text()
    assert '"width": 1' in text
    (tmp_path / "ledger.json").write_text(text.replace(', "width": 1', ""))
    assert read_ledger(tmp_path / "ledger.json") == replace(ledger.contents)


def test_slots_that_were_taken_meanwhile_have_to_be_idle_for_a_minute_again(tmp_path):
    watched = Watched(tmp_path, 1, 4)
    watched.start("m0", 1)
    watched.reach(1)
    assert watched.look(after=50) == ({}, [])
    watched.num_slots = 1
    assert watched.look(after=6) == ({}, [])
    watched.num_slots = 4
    assert watched.look(after=600) == ({}, [])
    assert watched.look(after=61) == ({}, ["m0"])


def test_failed_attempt_is_noted_where_the_gang_s_failing_worker_was(wide, monkeypatch):
    """The driver asks where a member is once it runs, and again when it has failed."""
    asked = []

    def where(_, member):
        asked.append(member)
        return Where("", "", 0, "", str(asked.count(member)))

    monkeypatch.setattr(LocalActors, "where", where)
    wide.fail_once("m0/train")
    assert wide.ledger.stages["m0/train"].attempts[-1].where.node_id == "2"
    assert wide.ledger.stages["m1/train"].attempts[-1].where.node_id == "1"
