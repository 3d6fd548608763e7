"""A sweep that is halved: a rung waits for its last point, decisions outlive kills, no bit of a survivor moves."""

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from book_in_memory import book_in_memory
from driver_run import Run
from fake_stages import NUM_UPDATES, died, make_plan, make_stage, plan_of
from local_actors import LocalActors
from no_tracker import NoTracker
from tiny_stage import TINY, make_spec, make_store, never, run_in_pieces

from orchestrator.cluster.actor import Duties, worker_duties
from orchestrator.execution.driver import Driver
from orchestrator.execution.jobs import Work
from orchestrator.plan.halving import choose_best
from orchestrator.plan.model import Plan, Rung, StageRef
from orchestrator.run.ledger import AttemptEnd, Budgets, Ledger, State
from orchestrator.run.paths import RunPaths
from workers.data.store import read_store
from workers.errors import CheckFailed, Diverged, MemberFailed
from workers.protocol import Numerics, StageResult, StageSpec
from workers.settings.training import Crops, KeptCheckpoint
from workers.training.stage import run_stage

NAMES = [f"point{number}" for number in range(9)]
# Point 4 is the best, then 7, then 1.
ERRORS = dict(zip((f"{name}/train" for name in NAMES), (0.6, 0.3, 0.5, 0.8, 0.1, 0.9, 0.7, 0.2, 0.4), strict=True))
# Of ten epochs and updates: after 2, and after 4.
FIRST, SECOND = 2, 4
# Of the ledger in an undisturbed launch, at the least: begins and ends of three stages at a time, one write each, both
# decisions, what comes before and after them.
NUM_WRITES = 14


def sweep(root: Path) -> Run:
    plan = plan_of({name: {"train": None} for name in NAMES}, dict.fromkeys(ERRORS, NUM_UPDATES))
    run = Run(root, replace(plan, rungs=(Rung(9, 3), Rung(3, 1))), num_slots=3)
    run.fakes.errors = ERRORS
    return run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return sweep(tmp_path)


def states(run: Run) -> dict[str, State]:
    return {ref.partition("/")[0]: entry.state for ref, entry in run.ledger.stages.items()}


def reached(run: Run) -> dict[str, list[float]]:
    return {ref.partition("/")[0]: list(entry.rungs) for ref, entry in run.ledger.stages.items()}


OUTCOME = {name: State.done if name == "point4" else State.ended for name in NAMES}


def test_rung_waits_for_its_last_point_and_only_the_best_go_on(run):
    assert run.launch()
    assert states(run) == OUTCOME
    last = {ref: max(step for other, step in run.fakes.updates if other == ref) for ref in ERRORS}
    assert last == dict.fromkeys(ERRORS, FIRST) | dict.fromkeys(("point1/train", "point7/train"), SECOND) | {
        "point4/train": NUM_UPDATES
    }
    for rung, points in ((FIRST, set(ERRORS)), (SECOND, {"point1/train", "point4/train", "point7/train"})):
        before = run.fakes.updates[: [step for _, step in run.fakes.updates].index(rung + 1)]
        assert {ref for ref, step in before if step == rung} == points, "all of a rung are there before one goes on"
    assert [name for name in run.fakes.started if name.endswith("predictions")] == ["point4/predictions"]
    assert run.outcomes("point4/train") == [AttemptEnd.paused, AttemptEnd.paused, AttemptEnd.done]
    assert dict(run.tracker.ended) == dict.fromkeys(ERRORS, "FINISHED")
    assert run.launch() and run.fakes.started == []


def test_decision_is_in_the_ledger_before_it_acts(run):
    seen: list[dict[str, State]] = []
    told = run.tracker.stage_finished

    def finished(ref: StageRef, status: str, tags: dict[str, str] | None = None) -> None:
        if tags == {"septet.ended": "halving"}:
            seen.append(states(run))
        told(ref, status, tags)

    run.tracker.stage_finished = finished
    assert run.launch()
    assert len(seen) == 8
    assert sum(state is State.ended for state in seen[0].values()) == 6


@pytest.mark.parametrize("seed", range(12))
def test_driver_killed_at_any_moment_goes_on_to_the_same_survivor(run, seed, monkeypatch):
    moments = random.Random(seed)
    for _ in range(3):
        at, before = moments.randrange(NUM_WRITES), moments.random() < 0.5
        ended = {name for name, state in states(run).items() if state is State.ended}
        run.launch_killed(at, before=before, monkeypatch=monkeypatch)
        assert not {ref.partition("/")[0] for ref in run.fakes.started} & ended
    assert run.launch()
    assert states(run) == OUTCOME
    wanted = {name: [ERRORS[f"{name}/train"]] * (2 if name in ("point1", "point4", "point7") else 1) for name in NAMES}
    assert reached(run) == wanted


def test_ledger_is_written_often_enough_for_those_kills(run, monkeypatch):
    assert run.launch_killed(NUM_WRITES - 1, before=True, monkeypatch=monkeypatch)
    assert not run.launch_killed(99, before=True, monkeypatch=monkeypatch)


def test_stop_at_a_rung_resumes_to_the_same_survivor(run):
    assert not run.launch(stop_when="point8/train")
    assert State.ended not in states(run).values()
    assert run.launch()
    assert states(run) == OUTCOME


def test_point_that_diverges_ends_at_its_rung_and_fails_nothing(run):
    run.fakes.script = {"point4/train": [(1, Diverged("loss nan", step=1))] * 9}
    assert run.launch()
    assert states(run) == OUTCOME | {"point4": State.ended, "point7": State.done}
    assert reached(run)["point4"] == []
    assert run.ledger.state is not State.failed


def test_launch_where_every_point_diverges_fails(run):
    run.fakes.script = {ref: [(1, Diverged("loss nan", step=1))] * 9 for ref in ERRORS}
    with pytest.raises(MemberFailed, match="loss nan"):
        run.launch()
    assert set(states(run).values()) == {State.failed}


def test_point_that_fails_otherwise_leaves_its_rung_undecided_until_it_is_there(run):
    run.fail_once("point4/train")
    assert states(run) == dict.fromkeys(NAMES, State.paused) | {"point4": State.failed}
    assert run.launch()
    assert run.fakes.started[0] == "point4/train"
    assert states(run) == OUTCOME


def test_lost_actor_changes_no_decision(run):
    run.fakes.script = {"point4/train": [(1, died()), (3, died())], "point5/train": [(2, died())]}
    assert run.launch()
    assert states(run) == OUTCOME


@pytest.mark.parametrize("when", ["between rungs", "at the end"])
def test_run_whose_ledger_was_deleted_is_refused(run, when):
    if when == "at the end":
        assert run.launch()
    else:
        run.fail_once("point4/train")
    run.paths.ledger.unlink()
    with pytest.raises(CheckFailed, match=r"ledger\.json: was deleted, and it held what the rungs .* decided"):
        run.launch()
    assert not run.paths.ledger.exists()


def test_stages_before_the_last_are_trained_whole(tmp_path):
    chains = {name: {"pre": None, "fine": f"{name}/pre"} for name in "abc"}
    plan = plan_of(chains, {f"{name}/{stage}": NUM_UPDATES for name in "abc" for stage in ("pre", "fine")})
    run = Run(tmp_path, replace(plan, rungs=(Rung(3, 1),)))
    run.fakes.errors = {"a/fine": 0.5, "b/fine": 0.4, "c/fine": 0.6}
    assert run.launch()
    assert {ref for ref, step in run.fakes.updates if step == NUM_UPDATES} == {"a/pre", "b/pre", "c/pre", "b/fine"}


def test_equal_errors_are_ordered_by_hash_and_by_nothing_else():
    plan = plan_of({name: {"train": None} for name in "abcdef"})
    refs = [stage.ref for stage in plan.stages]
    wanted = sorted(refs, key=lambda ref: plan.stage(ref).hash)[:2]
    assert wanted != refs[:2], "their names would have chosen others"
    for order in (refs, refs[::-1], sorted(refs, key=str, reverse=True)):
        assert list(choose_best(plan, Rung(2, 2), dict.fromkeys(order, 0.5))) == wanted
    best = dict.fromkeys(refs, 0.5) | {refs[3]: 0.4}
    assert choose_best(plan, Rung(2, 1), best) == (refs[3],)


# What follows trains for real: scikit-learn's digits, three updates an epoch, four epochs.
POINTS = {"slow": 0.001, "fast": 0.02, "frozen": 1e-9, "faster": 0.03}


def weights(folder: Path) -> str:
    last = max((folder / "checkpoints").iterdir())
    return hashlib.sha256((last / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store"))


def real_plan() -> Plan:
    fields = {name: getattr(TINY, name) for name in ("init", "model", "schedule", "augmentation")}
    rates = {name: replace(TINY.optimizer, lr=lr) for name, lr in POINTS.items()}
    stages = (make_stage(f"{name}/train", optimizer=optimizer, **fields) for name, optimizer in rates.items())
    return replace(make_plan(*stages), rungs=(Rung(4, 2), Rung(2, 1)))


@dataclass
class Stopping:
    """Real duties whose stages, at given starts, are stopped after a few updates as if their actor had died."""

    deaths: dict[int, int]
    starts: list[StageSpec] = field(default_factory=list)

    def duties(self) -> Duties:
        return Duties(self.run_stage, worker_duties().predict)

    def run_stage(self, spec: StageSpec, should_stop: Callable[[], bool]) -> StageResult:
        self.starts.append(spec)
        updates = self.deaths.get(len(self.starts) - 1, 10**6)
        left = iter(range(updates))

        def stop() -> bool:
            if next(left, None) is None:
                raise died()
            return should_stop()

        return run_stage(spec, stop)


def launched(root: Path, plan: Plan, store: Path, deaths: dict[int, int]) -> tuple[RunPaths, Stopping]:
    paths, duties = RunPaths(root), Stopping(deaths)
    digest, keep = read_store(store).digest, KeptCheckpoint.last
    work = Work(
        *(paths, plan, {"target": store}, digest, ("val",), Numerics(), keep, 1, Budgets(9, 0)), crops=Crops.centre
    )
    driver = Driver(work, Ledger(paths.ledger), NoTracker(), book_in_memory())
    driver.take_stock()
    assert driver.run(LocalActors(1, duties.duties), lambda: False, lambda: None)
    return paths, duties


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory, store: Path) -> tuple[RunPaths, Stopping]:
    return launched(tmp_path_factory.mktemp("halved"), real_plan(), store, {})


def test_survivor_has_the_bits_of_the_same_point_alone_and_other_points_stop_at_their_rung(halved, store, tmp_path):
    paths, duties = halved
    entries = json.loads(paths.ledger.read_text())["stages"]
    (survivor,) = (ref for ref, entry in entries.items() if entry["state"] == "done")
    assert [spec.until for spec in duties.starts] == [1] * 4 + [2] * 2 + [0]
    alone = replace(duties.starts[-1], stage_dir=tmp_path / "alone" / "train", fence="")
    (tmp_path / "alone").mkdir()
    run_stage(alone, never)
    assert weights(alone.stage_dir) == weights(paths.stage(StageRef.parse(survivor)))
    # Were the test blind to bits, the ended points would have the survivor's too.
    folders = [paths.stage(StageRef.parse(ref)) for ref in entries]
    assert len({weights(folder) for folder in folders}) == len(folders)


@pytest.mark.slow
def test_survivor_and_decisions_are_the_same_where_members_die_on_the_way(halved, store, tmp_path):
    undisturbed = json.loads(halved[0].ledger.read_text())["stages"]
    generator = random.Random(7)
    deaths = {start: generator.randrange(1, 3) for start in (0, 3, 5, 8)}
    paths, _ = launched(tmp_path, real_plan(), store, deaths)
    found = json.loads(paths.ledger.read_text())["stages"]
    assert {ref: (one["state"], one["rungs"]) for ref, one in found.items()} == {
        ref: (one["state"], one["rungs"]) for ref, one in undisturbed.items()
    }
    for ref in map(StageRef.parse, found):
        assert weights(paths.stage(ref)) == weights(halved[0].stage(ref))
    assert sum(len(one["attempts"]) for one in found.values()) == sum(
        len(one["attempts"]) for one in undisturbed.values()
    ) + len(deaths)


def test_stage_pauses_after_its_epochs_with_a_checkpoint_and_goes_on_with_the_same_bits(store, tmp_path):
    (tmp_path / "whole").mkdir()
    whole = make_spec(store, tmp_path / "whole" / "train", checkpoint_updates=100)
    end = run_stage(whole, never)
    paused = replace(whole, stage_dir=tmp_path / "paused" / "train", until=1)
    (tmp_path / "paused").mkdir()
    first, _ = run_in_pieces(paused, 2)
    per_epoch = end.num_updates // TINY.schedule.epochs
    assert (first.num_updates, first.checkpoint) == (per_epoch, f"step-{per_epoch:08d}")
    assert first.checkpoint_sha256 != end.checkpoint_sha256
    assert run_stage(paused, never) == replace(first, resumed_from=per_epoch), "it waits at its rung"
    assert run_stage(replace(paused, until=0), never) == replace(end, resumed_from=per_epoch)
