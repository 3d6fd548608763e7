"""A member that always fails: its budget ends, the run says which and why; a submission only where that is allowed."""

import json
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from command_line import write_ensemble
from local_actors import LocalActors
from no_tracker import NoTracker

from orchestrator import cluster, launching as story
from orchestrator.cli.program import main
from orchestrator.cluster.actor import Duties, worker_duties
from orchestrator.run.holder import is_locked
from orchestrator.run.ledger import AttemptEnd, read_ledger
from orchestrator.run.paths import RunPaths
from workers.storage.atomic import TEMPORARY_PREFIX

SMALL = (
    *("ensemble=three", "submission=probabilities", "cluster.cpus_per_member=1", "cluster.max_failures=1"),
    *("precision=fp32", "optimizer.batch_size=400", "model.width=0.05", "model.fc_units=16"),
    "ensemble.stages.train.epochs=1",
)
BUDGET = 1


class RecordingTracker(NoTracker):
    """Keeps the tags of the ensemble's run."""

    def __init__(self):
        self.tags: dict[str, str] = {}

    def tag_ensemble(self, tags):
        self.tags.update(tags)


@dataclass
class Bench:
    """Launches in this process, one member after another; `failing` names members whose training raises."""

    root: Path
    store: Path
    groups: Path
    failing: set[str] = field(default_factory=set)
    fails_at: str = "train"
    trained: list[str] = field(default_factory=list)
    injected: int = 0
    tracker: RecordingTracker = field(default_factory=RecordingTracker)

    @property
    def paths(self):
        return RunPaths(self.root / "run")

    def launch(self, *words):
        self.trained.clear()
        self.injected = 0
        places = (f"run_dir={self.paths.root}", f"datasets.store={self.store}", f"--config-dir={self.groups}")
        return main(["launch", *places, *SMALL, *words])

    def duties(self):
        real = worker_duties()

        def fail(member, at):
            if member in self.failing and self.fails_at == at:
                self.injected += 1
                raise RuntimeError("a bolt is loose")

        def run_stage(spec, should_stop):
            self.trained.append(spec.member)
            fail(spec.member, "train")
            return real.run_stage(spec, should_stop)

        def predict(spec, should_stop):
            fail(spec.member, "predictions")
            return real.predict(spec, should_stop)

        return Duties(run_stage, predict)

    @property
    def submission(self):
        path = self.paths.submission / "submission.csv"
        return path.read_bytes() if path.exists() else None

    def manifest(self):
        return json.loads((self.paths.submission / "manifest.json").read_text())

    def require_nothing_left_behind(self):
        assert not is_locked(self.paths)
        assert not list(self.paths.root.rglob(f"{TEMPORARY_PREFIX}*"))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def bench(tmp_path, store, monkeypatch):
    return made(tmp_path, store, monkeypatch)


def made(root, store, patch):
    bench = Bench(root, store, write_ensemble(root / "groups", "three", *"abc"))
    patch.setattr(cluster, "open_cluster", lambda *_: nullcontext(LocalActors(1, bench.duties)))
    patch.setattr(story.tracking, "probe", lambda *_: "")
    patch.setattr(story, "Tracker", lambda *_: bench.tracker)
    patch.chdir(root)
    return bench


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, store):
    """The submission of a launch in which nothing fails."""
    with pytest.MonkeyPatch.context() as patch:
        bench = made(tmp_path_factory.mktemp("undisturbed"), store, patch)
        assert bench.launch() == 0
        assert bench.manifest()["missing"] == []
        digests = {f"septet.{name}_sha256" for name in ("submission", "manifest")}
        assert set(bench.tracker.tags) == digests
        return bench.submission


def require_budget_spent(bench):
    """The member was tried as often as its budget says, and not once more."""
    assert bench.injected == BUDGET + 1
    ledger = read_ledger(bench.paths.ledger)
    attempts = (ledger.stages["b/train"] if bench.fails_at == "train" else ledger.predictions["b"]).attempts
    assert [attempt.outcome for attempt in attempts] == [AttemptEnd.failed] * (BUDGET + 1)


def test_member_that_always_fails_spends_its_budget(bench, undisturbed, capsys):
    bench.failing = {"b"}
    assert bench.launch() == 4
    last = capsys.readouterr().err.splitlines()[-1]
    assert "b/train: a bolt is loose" in last and "log.txt" in last
    assert bench.submission is None
    assert not bench.paths.report.exists()
    require_budget_spent(bench)
    bench.require_nothing_left_behind()
    bench.failing = set()
    assert bench.launch() == 0
    assert bench.trained == ["b"], "the others are not trained again"
    assert bench.submission == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("fails_at", ["train", pytest.param("predictions", marks=pytest.mark.soak)])
def test_min_members_has_the_others_submit_and_everything_says_who_is_missing(bench, undisturbed, fails_at, capsys):
    bench.failing, bench.fails_at = {"b"}, fails_at
    assert bench.launch("submission.min_members=2") == 4
    said = capsys.readouterr()
    why = f"b/{fails_at}: RuntimeError: a bolt is loose"
    last = said.err.splitlines()[-1]
    assert f"b/{fails_at}: a bolt is loose" in last and "a submission of 2 of 3 members was written, without b" in last
    require_budget_spent(bench)
    manifest = bench.manifest()
    assert manifest["missing"] == [{"member": "b", "why": why}]
    assert sorted(member["name"] for member in manifest["members"]) == ["a", "c"]
    for text in (said.out, (bench.paths.report / "table.md").read_text()):
        assert f"MISSING: b is not in any row and not in the submission ({why})" in text
    assert "MISSING: b" in (bench.paths.report / "index.html").read_text()
    scores = json.loads((bench.paths.report / "scores.json").read_text())
    assert scores["missing"] == manifest["missing"] and set(scores["members"]) == {"a", "c"}
    assert "2 CNNs" in said.out and "3 CNNs" not in said.out
    wanted = np.mean([np.load(bench.paths.predictions(name) / "test.npy")[0] for name in "ac"], axis=0)
    assert bench.submission is not None
    np.testing.assert_allclose(
        np.array(bench.submission.decode().splitlines()[1].split(",")[1:], dtype=float), wanted, rtol=1e-6
    )
    bench.require_nothing_left_behind()

    assert main(["verify", str(bench.paths.root), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["rebuilt"] and f"without b ({why})" in document["notes"][0]
    row = bench.submission.decode().splitlines()[1].split(",")[0]
    assert main(["explain", str(bench.paths.root), row, "--json"]) == 0
    assert [member["name"] for member in json.loads(capsys.readouterr().out)["members"]] == ["a", "c"]

    bench.failing = set()
    assert bench.launch("submission.min_members=2") == 0
    assert bench.trained == (["b"] if fails_at == "train" else [])
    assert bench.submission == undisturbed
    assert bench.manifest()["missing"] == []
    assert "missing" not in json.loads((bench.paths.report / "scores.json").read_text())


@pytest.mark.slow
def test_too_few_members_submit_only_where_fewer_are_asked_for(bench, capsys):
    bench.failing = {"b"}
    assert bench.launch("submission.min_members=3") == 4
    assert "no submission: 2 of 3 members have predictions" in capsys.readouterr().err
    assert bench.submission is None
    assert main(["submit", str(bench.paths.root)]) == 4
    assert "b (b/train: RuntimeError: a bolt is loose)" in capsys.readouterr().err
    assert bench.submission is None
    assert main(["submit", str(bench.paths.root), "submission.min_members=2"]) == 0
    assert "MISSING: b" in capsys.readouterr().out
    assert sorted(member["name"] for member in bench.manifest()["members"]) == ["a", "c"]
    assert main(["report", str(bench.paths.root)]) == 0
    assert "MISSING: b" in capsys.readouterr().out


@pytest.mark.parametrize(("number", "words"), [("4", "the ensemble has 3 members"), ("0", "give 1 or more")])
def test_impossible_min_members_exits_2(bench, number, words, capsys):
    assert bench.launch(f"submission.min_members={number}") == 2
    assert words in capsys.readouterr().err
    assert not bench.paths.root.exists()


@pytest.mark.slow
def test_member_that_fails_and_is_left_out_by_choice_costs_no_submission(bench, capsys):
    bench.failing = {"b"}
    assert bench.launch("combine.without=[b]") == 4
    last = capsys.readouterr().err.splitlines()[-1]
    assert "b/train: a bolt is loose" in last and "a submission of 2 of 3 members was written, without b" in last
    assert bench.manifest()["missing"] == [{"member": "b", "why": "left out by combine.without"}]
    assert main(["verify", str(bench.paths.root)]) == 0
    bench.failing = set()
    assert bench.launch("combine.without=[b]") == 0
    assert bench.trained == ["b"]
    assert sorted(member["name"] for member in bench.manifest()["members"]) == ["a", "c"]


def test_unknown_member_to_leave_out_exits_2_before_anything_starts(bench, capsys):
    assert bench.launch("combine.without=[d]") == 2
    assert "the ensemble has no member d; known: a, b, c" in capsys.readouterr().err
    assert not bench.paths.root.exists()
