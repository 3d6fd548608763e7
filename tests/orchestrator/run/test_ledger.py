"""The ledger: what it counts, and that it is on disk."""

import json
from contextlib import nullcontext
from dataclasses import asdict

import pytest

from orchestrator.cluster.interface import Where
from orchestrator.plan.model import PredictJob, StageRef, TrainJob
from orchestrator.run import ledger as ledger_module
from orchestrator.run.ledger import AttemptEnd, Budgets, Ledger, State, end_noted, read_ledger
from workers.errors import CheckFailed, ClusterLost, Stopped, StorageError

STAGE = TrainJob(StageRef("a", "train"))
HERE = Where("w1", "10.0.0.1", 7, "CPU", "1")


def _attempt(ledger, outcome):
    ledger.begin(STAGE, started=1.0, resumed_from=0)
    ledger.end(STAGE, outcome, State.waiting, error="why")
    return ledger.last(STAGE).attempt


@pytest.mark.parametrize("outcome", [AttemptEnd.lost, AttemptEnd.failed])
@pytest.mark.parametrize("limit", [0, 3])
def test_budget_allows_exactly_so_many_retries(tmp_path, outcome, limit):
    ledger = Ledger(tmp_path / "ledger.json")
    budgets = Budgets(limit, 99) if outcome is AttemptEnd.lost else Budgets(99, limit)
    allowed = []
    for _ in range(limit + 1):
        _attempt(ledger, outcome)
        allowed.append(ledger.may_retry(STAGE, outcome, budgets))
    assert allowed == [True] * limit + [False]


def test_budget_of_failures_is_not_spent_by_losses_or_earlier_launches(tmp_path):
    path = tmp_path / "ledger.json"
    _attempt(Ledger(path), AttemptEnd.failed)
    ledger = Ledger(path)
    _attempt(ledger, AttemptEnd.lost)
    _attempt(ledger, AttemptEnd.failed)
    assert ledger.may_retry(STAGE, AttemptEnd.failed, Budgets(max_losses=0, max_failures=1))


def test_changes_made_together_are_one_write_even_if_the_block_fails(tmp_path, monkeypatch):
    path, written, real = tmp_path / "ledger.json", [], ledger_module.write_json_lines
    monkeypatch.setattr(ledger_module, "write_json_lines", lambda *given: (written.append(1), real(*given)))
    ledger = Ledger(path)
    with pytest.raises(ValueError, match="broken"), ledger.together():
        ledger.begin(STAGE, started=1.0, resumed_from=0)
        ledger.place(STAGE, HERE)
        assert not written
        raise ValueError("broken")
    assert len(written) == 1 and read_ledger(path) == ledger.contents
    with ledger.together():
        ledger.reach(STAGE, 5)
    assert len(written) == 1, "nothing but the last update has changed"


def test_every_change_is_on_disk_before_the_method_returns(tmp_path):
    path = tmp_path / "ledger.json"
    ledger = Ledger(path, clock=lambda: 7.5)
    changes = [
        lambda: ledger.set_state(State.running),
        lambda: ledger.declare({STAGE: State.waiting}),
        lambda: ledger.begin(STAGE, started=5.0, resumed_from=3),
        lambda: ledger.place(STAGE, HERE),
        lambda: ledger.leave_out({"2": "left out: node w2: it lacks compiled kernels"}),
        lambda: ledger.flag_at_chance(STAGE, True),
        lambda: ledger.end(STAGE, AttemptEnd.done, State.done, resumed_from=2),
    ]
    for change in changes:
        change()
        assert read_ledger(path) == ledger.contents
    entry = json.loads(path.read_text())["stages"]["a/train"]
    assert entry["at_chance"] is True
    attempt = {"attempt": 0, "launch": 1, "started": 5.0, "resumed_from": 2, "last_step": 3, "outcome": "done"}
    where = {"node": "w1", "address": "10.0.0.1", "pid": 7, "device": "CPU", "node_id": "1"}
    ended = {"error": "", "diverged_at": None, "ended": 7.5, "where": where, "width": 1}
    assert entry["attempts"] == [attempt | ended]
    assert entry["attempts"][0]["where"] == asdict(HERE)
    assert Ledger(path).contents.left_out == {}, "each launch looks at the nodes again"


def test_attempts_on_a_node_that_is_left_out_count_for_no_budget(tmp_path):
    ledger, none_to_spare = Ledger(tmp_path / "ledger.json"), Budgets(max_losses=0, max_failures=0)
    ledger.begin(STAGE, started=1.0, resumed_from=0)
    ledger.place(STAGE, HERE)
    ledger.end(STAGE, AttemptEnd.failed, State.waiting, error="OSError: a cable")
    assert not ledger.may_retry(STAGE, AttemptEnd.failed, none_to_spare)
    ledger.leave_out({"1": "in quarantine"})
    assert ledger.may_retry(STAGE, AttemptEnd.failed, none_to_spare)
    assert ledger.is_left_out(ledger.last(STAGE)) and ledger.last(STAGE).kind == "OSError"


def test_file_has_a_line_for_each_job_and_no_number_that_json_lacks(tmp_path):
    path, other = tmp_path / "ledger.json", TrainJob(StageRef("b", "train"))
    ledger = Ledger(path)
    ledger.declare({STAGE: State.done, other: State.failed, PredictJob(STAGE.ref): State.done})
    ledger.begin(STAGE, started=5.0, resumed_from=3)
    text = path.read_text()
    assert json.loads(text) == json.loads(json.dumps(asdict(ledger.contents)))
    assert [line.split(":")[0] for line in text.splitlines() if line.startswith("  ")] == [
        '  "a/train"',
        '  "b/train"',
        '  "a"',
    ]
    with pytest.raises(ValueError, match="not JSON compliant"):
        ledger.begin(STAGE, started=float("nan"), resumed_from=3)
    assert path.read_text() == text


def test_attempt_of_a_dead_driver_is_closed_as_interrupted_and_its_stage_waits(tmp_path):
    path = tmp_path / "ledger.json"
    for number in range(2):
        ledger = Ledger(path)
        ledger.begin(STAGE, started=1.0, resumed_from=0)
        assert ledger.last(STAGE).attempt == number
    entry = Ledger(path).entry(STAGE)
    assert entry.state is State.waiting
    assert [attempt.outcome for attempt in entry.attempts] == [AttemptEnd.interrupted] * 2


def test_ledger_damaged_is_refused_by_name(tmp_path):
    (tmp_path / "ledger.json").write_text("{")
    with pytest.raises(StorageError, match=r"ledger\.json"):
        Ledger(tmp_path / "ledger.json")


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (Stopped("as asked"), State.stopped),
        (KeyboardInterrupt(), State.stopped),
        (ClusterLost("gone"), State.failed),
        (CheckFailed("no probabilities"), State.failed),
        (AssertionError("a bug"), State.failed),
        (None, State.done),
    ],
)
def test_ledger_says_how_a_launch_ended_whatever_ended_it(tmp_path, error, state):
    ledger = Ledger(tmp_path / "ledger.json")
    with pytest.raises(type(error)) if error else nullcontext(), end_noted(ledger):
        ledger.set_state(State.running)
        if error:
            raise error
    assert read_ledger(tmp_path / "ledger.json").state is state


def test_ledger_that_cannot_be_written_hides_no_error(tmp_path):
    with pytest.raises(CheckFailed), end_noted(Ledger(tmp_path / "ledger.json")):
        (tmp_path / "ledger.json").mkdir()
        raise CheckFailed("the first error")


def _met_nan(ledger, diverged_at):
    ledger.begin(STAGE, started=1.0, resumed_from=0)
    ledger.end(STAGE, AttemptEnd.diverged, State.waiting, diverged_at=diverged_at)
    return ledger.may_replay(STAGE)


@pytest.mark.parametrize(
    ("updates", "allowed"),
    [
        ([5], [True]),
        ([5, 5], [True, False]),
        ([5, 4], [True, False]),
        ([5, 9, 9], [True, True, False]),
        ([5, 9, 5], [True, True, False]),
        ([1, 2, 3, 4], [True, True, True, False]),
    ],
)
def test_nan_is_replayed_once_an_update_and_not_for_ever(tmp_path, updates, allowed):
    ledger = Ledger(tmp_path / "ledger.json")
    assert [_met_nan(ledger, update) for update in updates] == allowed
    budgets = Budgets(max_losses=0, max_failures=0)
    for outcome in (AttemptEnd.lost, AttemptEnd.failed):
        assert ledger.may_retry(STAGE, outcome, budgets), "a replay cost a budget"


def test_nan_of_an_earlier_launch_leaves_the_replay_of_this_one(tmp_path):
    path = tmp_path / "ledger.json"
    first = Ledger(path)
    assert [_met_nan(first, 5), _met_nan(first, 5)] == [True, False]
    assert _met_nan(Ledger(path), 5)


def test_nan_is_passed_once_something_beyond_it_is_vouched_for(tmp_path):
    path = tmp_path / "ledger.json"
    ledger = Ledger(path)
    _met_nan(ledger, 5)
    _met_nan(ledger, 9)
    assert ledger.entry(STAGE).open_nans == (5, 9)
    assert [ledger.pass_nans(STAGE, beyond) for beyond in (5, 8, 8, 10)] == [(), (5,), (), (9,)]
    assert read_ledger(path).stages["a/train"].passed_nans == (5, 9)
    assert ledger.entry(STAGE).open_nans == ()


def test_attempt_that_waited_for_a_machine_has_started_when_it_has_one(tmp_path):
    now = [5.0]
    ledger = Ledger(tmp_path / "ledger.json", lambda: now[-1])
    ledger.begin(STAGE, started=5.0, resumed_from=0, state=State.waiting, width=4)
    now.append(65.0)
    ledger.place(STAGE, Where("a", "10.0.0.1", 1, "CPU", "n"))
    now.append(66.0)
    ledger.place(STAGE, Where("b", "10.0.0.2", 1, "CPU", "m"))
    assert ledger.last(STAGE).started == 65.0, "it is moved once"
    ledger.end(STAGE, AttemptEnd.lost, State.waiting)
    ledger.begin(STAGE, started=66.0, resumed_from=0, state=State.waiting)
    now.append(99.0)
    ledger.end(STAGE, AttemptEnd.stopped, State.stopped)
    assert [one.ended - one.started for one in ledger.entry(STAGE).attempts] == [1.0, 0.0]
