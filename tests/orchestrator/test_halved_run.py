"""A run whose sweep ended some points: what the submission, its check, status and cleaning make of them."""

import json
import shutil
from dataclasses import replace

import pytest
from fake_stages import make_record
from record_committed import record_committed
from whole_run import commit

from orchestrator.combine.absent import check_min_members
from orchestrator.config.composition import compose
from orchestrator.config.schema import CombineConfig, SubmissionConfig
from orchestrator.outputs import write_results
from orchestrator.plan.model import Rung, StageRef, TrainJob
from orchestrator.run.cleaning import clean
from orchestrator.run.ledger import AttemptEnd, Ledger, State
from orchestrator.run.record import write_record
from orchestrator.run.status import status_lines
from orchestrator.run.status_reader import read_status
from orchestrator.verification.run import verify
from workers.errors import ConfigError, MemberFailed
from workers.storage import atomic

pytestmark = pytest.mark.usefixtures("no_drawing")
MEAN, LABELS = CombineConfig(), SubmissionConfig()
BEST, GONE = ("base1", "base3"), ("base0", "base2")


@pytest.fixture
def run(tmp_path, make_run):
    """Four points, of which two went on; the others have no DONE.json and no predictions."""
    made = make_run(tmp_path / "run", base=("base0", "base1", "base2", "base3"), pretrained=())
    commit(made, MEAN, LABELS)
    shutil.rmtree(made.paths.submission)
    plan = replace(made.plan, rungs=(Rung(3, 2),))
    run = replace(made, plan=plan)
    write_record(run.paths, make_record(plan, data_digests={"target": "d" * 64}))
    atomic.write_text(run.paths.config_yaml, compose([]).yaml)
    ledger = Ledger(run.paths.ledger)
    refs = {name: StageRef(name, "train") for name in plan.members}
    for number, ref in enumerate(refs.values()):
        ledger.begin(TrainJob(ref), started=0.0, resumed_from=0)
        ledger.end(TrainJob(ref), AttemptEnd.paused, State.paused, rung=0.1 * (number % 2 == 0) + 0.3)
    ledger.decide([refs[name] for name in BEST], [refs[name] for name in GONE])
    for name in GONE:
        run.paths.done(refs[name]).unlink()
        shutil.rmtree(run.paths.predictions(name))
    for name in BEST:
        ledger.declare({TrainJob(refs[name]): State.done})
    ledger.set_state(State.done)
    record_committed(run.paths, plan)
    return run


def test_ended_points_are_left_out_and_listed_and_the_run_verifies(run):
    results = write_results(run.paths, run.plan, MEAN, LABELS)
    manifest = json.loads(run.paths.submission_manifest.read_text())
    assert sorted(one["name"] for one in manifest["members"]) == list(BEST)
    why = "ended by sweep_stop=halving; dev error at its rungs: 40.0%"
    assert manifest["missing"] == [{"member": name, "why": why} for name in GONE]
    assert {row["member"] for row in manifest["missing"]} | {one["name"] for one in manifest["members"]} == set(
        run.plan.members
    )
    for name in GONE:
        assert f"MISSING: {name} is not in any row and not in the submission ({why})." in results.table_text
    found = verify(run.paths)
    assert found.ok and found.rebuilt


def test_point_that_is_not_ended_and_not_finished_is_still_required(run):
    run.paths.done(StageRef("base3", "train")).unlink()
    with pytest.raises(MemberFailed, match="base3: its last stage train is not finished"):
        write_results(run.paths, run.plan, MEAN, LABELS)


def test_left_out_members_and_ended_points_may_not_be_all(run):
    with pytest.raises(ConfigError, match=r"combine\.without: leaves no member to combine"):
        write_results(run.paths, run.plan, CombineConfig(without=BEST), LABELS)
    results = write_results(run.paths, run.plan, CombineConfig(without=(BEST[0], GONE[0])), LABELS)
    assert sorted(one.member for one in results.missing) == ["base0", "base1", "base2"]


def test_min_members_counts_the_points_that_go_on(run):
    with pytest.raises(ConfigError, match="min_members=3: the ensemble has 2 members; give at most that"):
        check_min_members(SubmissionConfig(min_members=3), run.plan)
    results = write_results(run.paths, run.plan, MEAN, SubmissionConfig(min_members=2))
    assert [one.member for one in results.missing] == list(GONE)


def test_status_counts_ended_points_as_over(run):
    status = read_status(run.paths)
    assert [stage.state for stage in status.stages] == [State.ended, State.done, State.ended, State.done]
    assert status.num_done == 4 and status.share == 1.0 and status.remaining_s == 0.0
    assert "base0/train  ended" in status_lines(status)[1]


def test_clean_keeps_ended_points_as_they_are(run):
    write_results(run.paths, run.plan, MEAN, LABELS)
    folders = [run.paths.checkpoints(StageRef(name, "train")) for name in GONE]
    before = [sorted(folder.rglob("*")) for folder in folders]
    assert clean(run.paths) > 0
    assert [sorted(folder.rglob("*")) for folder in folders] == before
    assert verify(run.paths).ok
