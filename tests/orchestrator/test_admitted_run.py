"""A run of which admission ended members: what the submission, its check, status and cleaning make of them."""

import json
import shutil

import pytest
from fake_stages import make_record
from record_committed import record_committed
from whole_run import commit

from orchestrator.combine.absent import LEFT_OUT
from orchestrator.config.composition import compose
from orchestrator.config.schema import CombineConfig, SubmissionConfig
from orchestrator.outputs import write_results
from orchestrator.plan.model import StageRef, TrainJob
from orchestrator.run.ledger import Decision, Ledger, State
from orchestrator.run.record import write_record
from orchestrator.run.status import status_lines
from orchestrator.run.status_reader import read_status
from orchestrator.verification.run import verify
from workers.errors import ConfigError
from workers.storage import atomic

pytestmark = pytest.mark.usefixtures("no_drawing")
MEAN, LABELS = CombineConfig(), SubmissionConfig()
# The first of those that ended was trained and has predictions.
KEPT, GONE = ("base0", "base1"), ("base2", "base3")
WHY = "ended by ensemble.admit: one more than base0, base1 gains 0.0100 (-0.0200 to 0.0400) of top1, worth 0.05"


@pytest.fixture
def run(tmp_path, make_run):
    run = make_run(tmp_path / "run", base=(*KEPT, *GONE), pretrained=())
    commit(run, MEAN, LABELS)
    shutil.rmtree(run.paths.submission)
    write_record(run.paths, make_record(run.plan, data_digests={"target": "d" * 64}))
    atomic.write_text(run.paths.config_yaml, compose([]).yaml)
    ledger = Ledger(run.paths.ledger)
    for name in KEPT:
        ledger.declare({TrainJob(StageRef(name, "train")): State.done})
    decision = Decision(dict.fromkeys(KEPT, "0" * 64), "top1", 0.05, 0.9, (0.01, -0.02, 0.04), GONE)
    ledger.decide((), [StageRef(name, "train") for name in GONE], (decision,))
    ledger.set_state(State.done)
    run.paths.done(StageRef("base3", "train")).unlink()
    shutil.rmtree(run.paths.predictions("base3"))
    record_committed(run.paths, run.plan)
    return run


def test_members_not_admitted_are_left_out_and_listed_and_the_run_verifies(run):
    results = write_results(run.paths, run.plan, MEAN, LABELS)
    manifest = json.loads(run.paths.submission_manifest.read_text())
    assert sorted(one["name"] for one in manifest["members"]) == list(KEPT)
    assert manifest["missing"] == [{"member": name, "why": WHY} for name in GONE]
    for name in GONE:
        assert f"MISSING: {name} is not in any row and not in the submission ({WHY})." in results.table_text
    found = verify(run.paths)
    assert found.ok and found.rebuilt


def test_members_left_out_by_hand_are_named_as_such_and_min_members_counts_those_admitted(run):
    results = write_results(run.paths, run.plan, CombineConfig(without=("base0", "base2")), LABELS)
    assert [(one.member, one.why) for one in results.missing] == [
        ("base0", LEFT_OUT),
        ("base2", LEFT_OUT),
        ("base3", WHY),
    ]
    with pytest.raises(ConfigError, match=r"combine\.without: leaves no member to combine"):
        write_results(run.paths, run.plan, CombineConfig(without=KEPT), LABELS)
    with pytest.raises(ConfigError, match="min_members=3: the ensemble has 2 members"):
        write_results(run.paths, run.plan, MEAN, SubmissionConfig(min_members=3))


def test_status_says_that_members_ended_also_those_that_were_trained(run):
    status = read_status(run.paths)
    assert [stage.state for stage in status.stages] == [State.done, State.done, State.ended, State.ended]
    assert status.num_done == 4 and status.share == 1.0
    assert "base2/train  ended" in status_lines(status)[3]
