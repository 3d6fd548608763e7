"""Nodes on which members fail as nowhere else: which they are (pure), and that their members end elsewhere for free."""

import pytest
from driver_run import Run
from fake_stages import plan_of
from local_actors import LocalActors
from oracle import wait_for

from orchestrator.cluster.interface import Where
from orchestrator.cluster.ray_nodes import Node
from orchestrator.execution.nodes import NodeWatch, suspects
from orchestrator.plan.model import StageRef, TrainJob
from orchestrator.run.ledger import Attempt, AttemptEnd, Budgets, Ledger, State
from workers.errors import ConfigError, DataError, MemberFailed, StorageError
from workers.storage import newest_step
from workers.training import read_step

NODES = ("1", "2", "3")


def at(node):
    return Where(f"w{node}", f"10.0.0.{node}", 7, "CPU", node)


def ended(member, node, error="OSError: a cable", outcome=AttemptEnd.failed):
    return member, Attempt(0, 1, 0.0, 0, 0, outcome, error if outcome is not AttemptEnd.done else "", where=at(node))


def test_two_members_failing_alike_on_one_node_alone_make_it_a_suspect():
    found = suspects([ended("a", "1"), ended("b", "1"), ended("c", "2", outcome=AttemptEnd.done)], NODES)
    assert list(found) == ["1"]
    assert found["1"].startswith("in quarantine: node w1 (10.0.0.1): a and b ended there with OSError, as none did els")


@pytest.mark.parametrize(
    "attempts",
    [
        [ended("a", "1"), ended("a", "1")],
        [ended("a", "1"), ended("b", "1", "ValueError: x")],
        [ended("a", "1"), ended("b", "1"), ended("c", "2")],
        [ended("a", "4"), ended("b", "4")],
        [ended("a", "1", outcome=AttemptEnd.preempted), ended("b", "1", outcome=AttemptEnd.stopped)],
        [ended(member, node, f"Kind{node}: x") for member in "ab" for node in NODES],
    ],
    ids=["one member", "two kinds", "elsewhere too", "gone", "no fault", "all nodes"],
)
def test_otherwise_no_node_is_a_suspect(attempts):
    assert suspects(attempts, NODES) == {}


def test_suspect_that_has_gone_stays_one_and_only_nodes_that_are_there_count_as_others():
    failed = [ended("a", "1"), ended("b", "1")]
    assert list(suspects(failed, ["2"], before=["1"])) == ["1"]
    assert suspects(failed, ["1"], before=["1"]) == {}


class OfNodes(LocalActors):
    """Members in threads, each on the first of two nodes that may be used; a member's first node is its own choice."""

    is_local = False

    def __init__(self, fakes, first="1"):
        super().__init__(1, fakes.duties)
        self.first, self.out, self.left_out, self.there = first, {}, {}, ("1", "2")

    def nodes(self):
        return [Node(1, 0, name) for name in self.there]

    def quarantine(self, suspects):
        self.out = self.left_out = dict(suspects)

    def where(self, member):
        return at(next(name for name in (self.first, "1", "2") if name not in self.out))


def launched(root, script):
    run = Run(root, plan_of({name: {"train": None} for name in "abc"}), budgets=Budgets(0, 0), num_slots=1)
    run.fakes.script = script
    driver, actors = run.driver(), OfNodes(run.fakes)
    driver.take_stock()
    return run, lambda: driver.run(actors, lambda: False, lambda: None)


@pytest.mark.parametrize("error", [OSError("a cable"), DataError("its copy is damaged")], ids=["retried", "for good"])
def test_members_of_a_node_in_quarantine_end_elsewhere_though_their_budget_is_none(tmp_path, error):
    run, work = launched(tmp_path, {"a/train": [(4, error)], "b/train": [(4, error)]})
    assert work()
    where = {ref: [one.where.node for one in entry.attempts] for ref, entry in run.ledger.stages.items()}
    assert where == {"a/train": ["w1", "w2"], "b/train": ["w1", "w2"], "c/train": ["w2"]}
    assert {entry.state for entry in run.ledger.stages.values()} == {State.done}
    assert [line.partition(":")[0] for line in run.ledger.left_out.values()] == ["in quarantine"]
    assert run.tracker.places["a/train"] == "w2 (10.0.0.2), pid 7, CPU"


def test_quarantine_ends_once_the_other_nodes_are_gone(tmp_path, caplog):
    run, _ = launched(tmp_path, {})
    ledger, actors = Ledger(run.paths.ledger), OfNodes(run.fakes)
    for member in "ab":
        job = TrainJob(StageRef(member, "train"))
        ledger.begin(job, started=0.0, resumed_from=0)
        ledger.place(job, at("1"))
        ledger.end(job, AttemptEnd.failed, State.waiting, error="OSError: a cable")
    watch = NodeWatch(ledger, run.tracker)
    watch.judge(actors)
    watch.note(actors, [])
    assert list(actors.out) == list(ledger.contents.left_out) == ["1"]
    actors.there = ("1",)
    watch.note(actors, [])
    assert actors.out == ledger.contents.left_out == {}
    assert "no longer in quarantine: node w1 (10.0.0.1)\n" in caplog.text


def test_error_that_comes_elsewhere_too_is_no_node_s_fault(tmp_path):
    error = [(4, OSError("a bug"))] * 9
    run, work = launched(tmp_path, {f"{name}/train": error for name in "abc"})
    with pytest.raises(MemberFailed, match="a bug"):
        work()
    assert run.ledger.left_out == {}
    assert all(len(entry.attempts) <= 2 for entry in run.ledger.stages.values())


class Full(LocalActors):
    """Its node is left out once a member is on it."""

    def acquire(self, member, width=1, code=""):
        if self.acquired:
            raise ConfigError("no node of the cluster can be used")
        super().acquire(member, width, code)


def refused(run, cluster):
    """Returns the cluster after a launch of `run` for which no node was left."""
    driver = run.driver()
    driver.take_stock()
    with pytest.raises(ConfigError, match="no node of the cluster can be used"):
        driver.run(cluster, lambda: False, lambda: None)
    return cluster


def test_member_that_began_before_one_without_a_node_is_stopped_in_order(tmp_path):
    run = Run(tmp_path, plan_of({name: {"train": None} for name in "ab"}))
    run.fakes.waiting = frozenset({"a/train"})
    cluster = refused(run, Full(2, run.fakes.duties))
    assert run.outcomes("a/train") == [AttemptEnd.stopped]
    assert "b/train" not in run.fakes.started and cluster.discarded == ["a"]


def test_members_whose_begin_is_not_in_the_ledger_do_not_start(tmp_path, monkeypatch):
    def full(*_):
        raise StorageError("no space left")

    run = Run(tmp_path, plan_of({name: {"train": None} for name in "ab"}))
    driver, cluster = run.driver(), LocalActors(2, run.fakes.duties)
    driver.take_stock()
    monkeypatch.setattr("orchestrator.run.ledger.write_json_lines", full)
    with pytest.raises(StorageError, match="no space left"):
        driver.run(cluster, lambda: False, lambda: None)
    assert run.fakes.started == [] and len(cluster.acquired) == 2


def test_where_no_node_is_left_to_start_on_members_that_run_save_what_they_have(tmp_path):
    class Grown(Full):
        """It has room for another once a member trains."""

        def poll(self, timeout_s):
            wait_for(lambda: read_step(run.paths.step(ref)) == 1)
            self._num_slots = 2
            return super().poll(timeout_s)

    run, ref = Run(tmp_path, plan_of({name: {"train": None} for name in "ab"})), StageRef("a", "train")
    run.fakes.waiting = frozenset({"a/train"})
    cluster = refused(run, Grown(1, run.fakes.duties))
    assert run.outcomes("a/train") == [AttemptEnd.stopped]
    assert newest_step(run.paths.checkpoints(ref)) == 1
    assert "b/train" not in run.fakes.started and cluster.discarded == ["a"]
