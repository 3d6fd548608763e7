"""A machine that is about to be taken away: its members checkpoint just in time, resume elsewhere, and pay nothing."""

import pytest
from driver_run import Run
from fake_stages import NUM_UPDATES, FakeStages, plan_of
from local_actors import LocalActors

from orchestrator.cluster.ray_nodes import Node, count_slots
from orchestrator.run.ledger import AttemptEnd, Budgets, State

PLAN = plan_of({"a": {"train": None}, "b": {"train": None}})
NONE_TO_SPARE = Budgets(max_losses=0, max_failures=0)


class Preempting(LocalActors):
    """Tells, three times, that the machine of a member that trains is about to go."""

    def __init__(self, fakes):
        super().__init__(2, fakes.duties)
        self.fakes, self.num_told = fakes, 0

    def leaving(self):
        if self.num_told < 3 and "a" in self._actors and any(ref == "a/train" for ref, _ in self.fakes.updates):
            self.num_told += 1
            self.fakes.updates.clear()
            self.told_to_leave.add("a")
        return super().leaving()


class Slow(FakeStages):
    """Stays at its first update of an attempt until asked, as long as it is to be moved."""

    moves_left = 3

    def run_stage(self, spec, should_stop):
        if spec.member == "a":
            self.waiting = frozenset({"a/train"} if self.moves_left else ())
            self.moves_left = max(0, self.moves_left - 1)
        return super().run_stage(spec, should_stop)


def test_members_of_a_leaving_machine_move_and_no_budget_is_touched(tmp_path):
    run = Run(tmp_path, PLAN, Slow(), NONE_TO_SPARE)
    driver, actors = run.driver(), Preempting(run.fakes)
    driver.take_stock()
    assert driver.run(actors, lambda: False, lambda: None)
    assert actors.num_told == 3, "the notices never came"
    entry = run.ledger.stages["a/train"]
    assert [attempt.outcome for attempt in entry.attempts] == [*[AttemptEnd.preempted] * 3, AttemptEnd.done]
    # Nothing is redone: each attempt resumes from where the one before it was stopped.
    assert [attempt.resumed_from for attempt in entry.attempts] == [0, 1, 2, 3]
    assert entry.state is State.done
    assert entry.attempts[-1].last_step == NUM_UPDATES
    assert actors.discarded.count("a") >= 3, "an actor that was told to stop was used again"


@pytest.mark.parametrize(("leaving", "slots"), [(frozenset(), 3), (frozenset({"b"}), 2), (frozenset({"a", "b"}), 1)])
def test_slots_are_those_of_nodes_that_stay_and_one_more(leaving, slots):
    staying = [node for node in (Node(2, 0, "a"), Node(1, 0, "b")) if node.name not in leaving]
    assert count_slots(staying, 1, 0, least=1) == slots
