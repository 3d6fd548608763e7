"""A machine that is about to be taken away: its members checkpoint just in time, go on elsewhere, and pay nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest
from book_in_memory import book_in_memory
from fake_stages import EVERY, NUM_UPDATES, FakeStages, plan_of
from no_tracker import NoTracker
from redone import redone_updates

from orchestrator.cluster.local_backend import LocalActors
from orchestrator.cluster.ray_nodes import Node, count_remaining_slots
from orchestrator.execution.driver import Driver
from orchestrator.execution.jobs import Work
from orchestrator.run.ledger import AttemptEnd, Budgets, Ledger, StageState, read_ledger
from orchestrator.run.paths import RunPaths
from workers.errors import MemberFailed
from workers.protocol import Numerics
from workers.settings.training import Crops, KeptCheckpoint
from workers.storage import atomic

pytestmark = pytest.mark.timeout(60)
NONE_TO_SPARE = Budgets(max_losses=0, max_failures=0)


class Preempting(LocalActors):
    """Tells, three times, that the machine of a member that trains is about to go."""

    def __init__(self, duties: Callable[[], object], fakes: FakeStages) -> None:
        super().__init__(2, duties)  # type: ignore[arg-type]
        self.fakes, self.num_told = fakes, 0

    def leaving(self) -> frozenset[str]:
        if self.num_told < 3 and "a" in self._actors and any(ref == "a/train" for ref, _ in self.fakes.updates):
            self.num_told += 1
            self.fakes.updates.clear()
            self.told_to_leave.add("a")
        return super().leaving()


def _launch(root: Path, cluster: Callable[[FakeStages], LocalActors], fakes: FakeStages) -> LocalActors:
    atomic.write_text(root / "store" / "digest", "d")
    work = Work(
        RunPaths(root),
        plan_of({"a": {"train": None}, "b": {"train": None}}),
        {"target": root / "store"},
        "target",
        "d",
        ("test",),
        Numerics(),
        KeptCheckpoint.last,
        EVERY,
        NONE_TO_SPARE,
        Crops.centre,
    )
    driver, actors = Driver(work, Ledger(RunPaths(root).ledger), NoTracker(), book_in_memory()), cluster(fakes)
    driver.take_stock()
    assert driver.run(actors, lambda: False, lambda: None)
    return actors


class Slow(FakeStages):
    """Stays at its first update of an attempt until asked, as long as it is to be moved."""

    moves_left = 3

    def run_stage(self, spec, should_stop):  # type: ignore[no-untyped-def]
        if spec.member == "a":
            self.waiting = frozenset({"a/train"} if self.moves_left else ())
            self.moves_left = max(0, self.moves_left - 1)
        return super().run_stage(spec, should_stop)


def _check_that_members_move_at_no_cost(tmp_path: Path) -> None:
    fakes = Slow()
    actors = _launch(tmp_path, lambda fakes: Preempting(fakes.duties, fakes), fakes)
    assert isinstance(actors, Preempting)
    assert actors.num_told == 3, "the notices never came"
    entry = read_ledger(RunPaths(tmp_path).ledger).stages["a/train"]
    assert [attempt.outcome for attempt in entry.attempts] == [*[AttemptEnd.preempted] * 3, AttemptEnd.done]
    # Nothing is redone: each attempt goes on from where the one before it was stopped.
    assert [attempt.resumed_from for attempt in entry.attempts] == [0, 1, 2, 3]
    assert redone_updates(entry) == 0
    assert entry.state is StageState.done
    assert entry.attempts[-1].last_step == NUM_UPDATES
    assert actors.discarded.count("a") >= 3, "an actor that was told to stop was used again"


def test_members_of_a_leaving_machine_move_and_no_budget_is_touched(tmp_path: Path) -> None:
    _check_that_members_move_at_no_cost(tmp_path)


def _stop_alone(driver: Driver) -> None:
    for member in driver._cluster.leaving() & driver._busy.keys():
        driver._cluster.stop(member)


@pytest.mark.parametrize(
    ("protection", "instead"), [("_move_off_leaving_machines", _stop_alone), ("_discard", lambda *_: None)]
)
def test_control_a_notice_that_is_taken_for_a_stop_or_an_actor_used_again_ends_the_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protection: str, instead: Callable[..., None]
) -> None:
    monkeypatch.setattr(Driver, protection, instead)
    with pytest.raises(AssertionError):
        _check_that_members_move_at_no_cost(tmp_path)


def test_machine_that_goes_without_a_notice_costs_the_budget_of_losses(tmp_path: Path) -> None:
    from fake_stages import died

    fakes = FakeStages(script={"a/train": [(2, died())]})
    with pytest.raises(MemberFailed):
        _launch(tmp_path, lambda fakes: LocalActors(2, fakes.duties), fakes)


@pytest.mark.parametrize(("leaving", "slots"), [(frozenset(), 3), (frozenset({"b"}), 2), (frozenset({"a", "b"}), 1)])
def test_slots_are_those_of_the_nodes_that_stay_and_one_to_wait_for_the_next(
    leaving: frozenset[str], slots: int
) -> None:
    assert count_remaining_slots([Node(2, 0, "a"), Node(1, 0, "b")], leaving, 1, 0) == slots
