"""How a launch ends, told by what it leaves; tests/e2e has launches that train."""

import math
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
from fake_stages import make_record, plan_of
from local_actors import LocalActors

from orchestrator import cluster, launching
from orchestrator.cli.program import main
from orchestrator.combine import LEFT_OUT, STUDENT, Missing
from orchestrator.config.composition import compose
from orchestrator.launching import Incomplete
from orchestrator.placement import choice as placement
from orchestrator.placement.placing import Placed
from orchestrator.run.ledger import State
from orchestrator.run.paths import RunPaths
from orchestrator.run.record import read_record
from orchestrator.run.status_reader import read_status
from workers.errors import ClusterLost, MemberFailed
from workers.protocol import Numerics, StageResult
from workers.storage import write_finished


@pytest.mark.slow
def test_launch_that_lost_its_cluster_left_the_run_failed_and_not_as_if_killed(tmp_path, monkeypatch):
    @contextmanager
    def lost(settings, needs):
        raise ClusterLost("the cluster is gone")
        yield

    monkeypatch.setattr(cluster, "open_cluster", lost)
    monkeypatch.chdir(tmp_path)
    assert main(["launch", "run_dir=run", "datasets.store=store", "ensemble=five"]) == 1
    assert read_status(RunPaths(tmp_path / "run")).state is State.failed


def test_incomplete_launch_does_not_say_that_a_finished_student_is_missing():
    missing = (Missing("student", STUDENT), Missing("tutor", "tutor/train: Diverged"), Missing("base2", LEFT_OUT))
    plan = SimpleNamespace(members=("base1", "base2", "base3", "student", "tutor"))
    done = SimpleNamespace(results=SimpleNamespace(missing=missing))
    said = str(Incomplete(MemberFailed("tutor/train: Diverged"), plan, done))
    assert "a submission of 2 of 4 members was written, without tutor, base2 (left out by combine.without):" in said


@pytest.mark.soak
def test_launch_measures_its_placement_once_and_keeps_it(tmp_path, monkeypatch, capsys):
    @contextmanager
    def one_slot(settings, needs):
        yield LocalActors(num_slots=1)

    monkeypatch.setattr(cluster, "open_cluster", one_slot)
    monkeypatch.setattr(placement, "SHARE_OF_BUSY", math.inf)
    monkeypatch.chdir(tmp_path)
    small = ("model.width=0.05", "model.fc_units=16", "ensemble.stages.train.epochs=1")
    words = ["launch", "run_dir=run", "datasets.store=store", "ensemble=five", *small]
    assert main(words) == 0
    told = capsys.readouterr().err
    first = read_record(RunPaths(tmp_path / "run"))
    assert "measuring" in told
    assert f"placement: {first.placement}" in told
    assert first.placement in (tmp_path / "run" / "report" / "index.html").read_text()
    assert list((tmp_path / "store" / "placement").glob("*.json"))
    assert main(words) == 0
    assert "measuring" not in capsys.readouterr().err
    assert read_record(RunPaths(tmp_path / "run")).numerics == first.numerics


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("compile=off", ["compile stays graphs, as in the run's first launch"]),
        ("precision=tf32", ["precision stays bf16, as in the run's first launch"]),
        ("compile=auto", []),
    ],
)
def test_launch_that_resumes_says_which_arithmetic_stays(override, said):
    kept = Numerics(precision="bf16", device="cuda", compile="graphs")
    run, told = SimpleNamespace(new=False, record=SimpleNamespace(numerics=kept)), []
    config = compose(["cluster.gpus_per_member=1", override])
    launching._placed(config, None, run, SimpleNamespace(note=told.append))
    assert told == said


@pytest.mark.parametrize(
    ("typed", "kept", "said"),
    [
        ("plain", "compiled", ["kernels stay compiled, as in the run's first launch"]),
        ("compiled", "torch", ["kernels stay torch, as in the run's first launch"]),
        ("plain", "torch", []),
        ("compiled", "compiled", []),
        ("auto", "torch", []),
    ],
)
def test_launch_that_resumes_says_which_kernels_stay(typed, kept, said):
    run, told = SimpleNamespace(new=False, record=SimpleNamespace(numerics=Numerics(kernels=kept))), []
    config = compose([f"cluster.kernels={typed}", "cluster.cpus_per_member=1"])
    launching._placed(config, None, run, SimpleNamespace(note=told.append))
    assert told == said


@pytest.fixture
def looks(monkeypatch):
    """What nodes are asked for, a look each."""
    asked = []
    monkeypatch.setattr(cluster, "open_cluster", lambda settings, needs: nullcontext(asked.append(needs)))
    return asked


@pytest.mark.parametrize("address", ["null", "127.0.0.1:1"])
def test_nodes_are_looked_at_only_on_a_cluster_elsewhere_and_if_something_is_to_be_trained(tmp_path, looks, address):
    plan, paths = plan_of({"a": {"train": None}, "b": {"train": None}}), RunPaths(tmp_path)
    config, record = compose([f"cluster.address={address}", "cluster.cpus_per_member=1"]), make_record(plan)
    for number, stage in enumerate(plan.stages, 1):
        launching._check_nodes(config, plan, paths, {}, record)
        assert len(looks) == (0 if address == "null" else number)
        write_finished(paths.stage(stage.ref), stage.hash, StageResult(1, 0, "step-00000001", "sha", 0.1, 0.2, False))
    launching._check_nodes(config, plan, paths, {}, record)
    assert len(looks) == (0 if address == "null" else len(plan.stages))


def test_memory_is_asked_of_nodes_where_members_train_in_it(tmp_path):
    plan = plan_of({"a": {"train": None}})
    asked = [
        launching._needs(
            compose([f"cluster.gpus_per_member={gpus}"]), plan, RunPaths(tmp_path), {}, make_record(plan)
        ).member_bytes
        for gpus in (0, 1)
    ]
    assert asked[0] > 1e6 and asked[1] == 0


def test_nodes_of_a_new_run_are_asked_for_its_storage_and_code_and_what_they_give_is_recorded(tmp_path, monkeypatch):
    plan, config, asked, told = plan_of({"a": {"train": None}}), compose(["precision=bf16"]), [], []
    placed = Placed(Numerics(5, kernels="compiled"), config.cluster, "as measured on w1")
    monkeypatch.setattr(launching.placement, "place", lambda *given: asked.append(given[-1]) or placed)
    stores, record = {"target": SimpleNamespace(path=tmp_path / "store")}, make_record(plan)
    display = SimpleNamespace(note=told.append)
    chosen = launching._choose_numerics(config, plan, RunPaths(tmp_path), stores, display, record)
    assert (chosen.numerics, chosen.placement) == (placed.numerics, "as measured on w1")
    assert told == ["placement: as measured on w1"]
    (needs,) = asked
    assert (needs.code, needs.folder, needs.stores) == (record.code_digest, tmp_path, (tmp_path / "store",))
    assert needs.typed and needs.member_bytes > 1e6
