"""What many members cost grows as their number does, counted in calls of functions and in writes."""

import numpy as np
import pytest
from calls import num_calls
from driver_run import Run
from fake_stages import plan_of

from orchestrator.cluster import Trained
from orchestrator.execution.driver import Driver
from orchestrator.plan.model import plan_from_json, plan_to_json
from orchestrator.report.figures import pairs_chart
from orchestrator.run import ledger as ledger_module
from orchestrator.run.costs import core_seconds
from orchestrator.run.ledger import State
from orchestrator.run.paths import RunPaths

FEW, MANY = 40, 160
# Of four times as many members, with some leeway for what a fixed cost takes off.
MOST_TIMES = 4.4


def members(num):
    return plan_of({f"m{number}": {"train": None} for number in range(num)}, {})


@pytest.mark.parametrize(
    "work",
    [
        lambda root, plan: core_seconds(RunPaths(root), plan, 1),
        lambda root, plan: plan_from_json(plan_to_json(plan)),
        lambda root, plan: Run(root, plan).driver().take_stock(),
    ],
    ids=["costs", "plan", "start"],
)
def test_work_on_a_plan_grows_as_its_members(tmp_path, work):
    few, many = (num_calls(lambda num=num: work(tmp_path / str(num), members(num))) for num in (FEW, MANY))
    assert many <= MOST_TIMES * few


def test_count_of_calls_tells_a_square():
    few, many = (num_calls(lambda num=num: [abs(b) for _ in range(num) for b in range(num)]) for num in (FEW, MANY))
    assert many > 3 * MOST_TIMES * few


@pytest.mark.parametrize("num_slots", [2, 8])
def test_members_that_begin_at_one_look_are_begun_by_one_write(tmp_path, num_slots, monkeypatch):
    running, real = [], ledger_module.write_json_lines

    def write(path, contents):
        running.append(sum(entry.state is State.running for entry in contents.stages.values()))
        real(path, contents)

    monkeypatch.setattr(ledger_module, "write_json_lines", write)
    assert Run(tmp_path, members(8), num_slots=num_slots).launch()
    assert next(filter(None, running)) == num_slots


def test_all_results_of_a_look_are_in_run_json_before_the_first_is_settled(tmp_path, monkeypatch):
    run, unknown, settle = Run(tmp_path, members(6), num_slots=6), [], Driver._settle

    def settled(self, completed):
        if isinstance(completed.outcome, Trained):
            unknown.extend({f"{completed.member}/train"} - self._book.committed.stages.keys())
        settle(self, completed)

    monkeypatch.setattr(Driver, "_settle", settled)
    assert run.launch()
    assert len(run.book.committed.stages) == 6 and not unknown


@pytest.mark.parametrize("num", [16, 41, 200])
def test_chart_of_pairs_has_no_cells_beyond_forty_members(num):
    matrix = np.random.default_rng(0).random((num, num))
    drawn = pairs_chart([f"m{number}" for number in range(num)], 100 * matrix, matrix, "pairs")
    assert drawn.svg.count(b"<title>") == (num * (num - 1) if num <= 40 else 0)
    assert len(drawn.svg) < 2_000_000
