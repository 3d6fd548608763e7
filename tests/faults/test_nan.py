"""A NaN at a chosen update: nothing poisoned is saved, one replay tells a passing fault from divergence."""

import json
import logging
import sqlite3
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from run_artefacts import artefacts
from stored import read_checkpoint
from tiny_stage import course, make_spec, make_store, never

from orchestrator.run.ledger import AttemptEnd, State
from orchestrator.run.status import status_lines
from orchestrator.run.status_reader import read_status
from workers.errors import Diverged
from workers.settings.model import ModelSettings
from workers.storage import checkpoint as protocol
from workers.training import gradients, loop, stage as stage_module
from workers.training.stage import run_stage

pytestmark = pytest.mark.timeout(300)
AT = 5  # in the middle of an epoch of three updates
AT_AN_EPOCH_S_END = 6


@dataclass
class Poison:
    """Is due at update `at`, at most `times` times, and counts."""

    times: int
    at: int = AT
    fired: int = 0

    def due(self, step):
        if step != self.at or self.fired >= self.times:
            return False
        self.fired += 1
        return True


def in_the_loss(poison, patch):
    make, mean_loss = loop._Update.make, gradients.mean_loss

    def poisoned(update, state):
        with pytest.MonkeyPatch.context() as inner:
            if poison.due(state.step):
                inner.setattr(gradients, "mean_loss", lambda *given: mean_loss(*given) * float("nan"))
            return make(update, state)

    patch.setattr(loop._Update, "make", poisoned)


def in_the_gradient(poison, patch):
    make, compute, step = loop._Update.make, loop.compute_gradients, 0

    def poisoned(update, state):
        nonlocal step
        step = state.step
        return make(update, state)

    def spoilt(forward, parameters, *rest):
        measured = compute(forward, parameters, *rest)
        if poison.due(step):
            gradient = next(parameter.grad for parameter in parameters if parameter.grad is not None)
            gradient[(0,) * gradient.ndim] = float("inf")
        return measured

    patch.setattr(loop._Update, "make", poisoned)
    patch.setattr(loop, "compute_gradients", spoilt)


def _after_the_update(poison, patch, spoil):
    make = loop._Update.make

    def poisoned(update, state):
        after = make(update, state)
        if poison.due(after.step):
            spoil(update._stage)
        return after

    patch.setattr(loop._Update, "make", poisoned)


def in_a_weight(poison, patch):
    def spoil(stage):
        with torch.no_grad():
            # Of the last layer's biases: a NaN further down is lost in the comparison of max pooling or ReLU.
            list(stage.model.parameters())[-1].view(-1)[0] = float("nan")

    _after_the_update(poison, patch, spoil)


def in_the_momentum(poison, patch):
    def spoil(stage):
        first = next(p for p in stage.model.parameters() if p in stage.optimizer.state)
        stage.optimizer.state[first]["momentum_buffer"][(0,) * first.ndim] = float("inf")

    _after_the_update(poison, patch, spoil)


def in_the_evaluation(poison, patch):
    real, real_end, step = stage_module.evaluate, loop._end_epoch, 0

    def end_epoch(stage, state, *rest):
        nonlocal step
        step = state.step
        return real_end(stage, state, *rest)

    def evaluate(model, *rest):
        if not poison.due(step):
            return real(model, *rest)
        with model.register_forward_hook(lambda *given: given[2] * float("nan")):
            return real(model, *rest)

    patch.setattr(loop, "_end_epoch", end_epoch)
    patch.setattr(stage_module, "evaluate", evaluate)


EVERYWHERE = (
    *((inject, AT) for inject in (in_the_loss, in_the_gradient, in_a_weight, in_the_momentum)),
    *((in_a_weight, AT_AN_EPOCH_S_END), (in_the_evaluation, AT_AN_EPOCH_S_END)),
)


def poisoned(checkpoints):
    """Checkpoints that hold something that is not finite, read without the protocol's own check."""
    folders = [folder for folder in checkpoints.iterdir() if folder.name.startswith("step-")]
    assert folders
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "first_not_finite", lambda _: None)
        contents = [read_checkpoint(folder) for folder in folders]
    return [
        one.checkpoint.folder.name
        for one in contents
        if not all(np.isfinite(value).all() for value in (*one.model.values(), *one.optimizer.values()))
    ]


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return make_spec(make_store(tmp_path_factory.mktemp("store")), tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="module")
def undisturbed_stage(spec):
    return run_stage(spec, never)


@pytest.mark.parametrize(("inject", "at"), EVERYWHERE)
def test_stage_that_meets_a_nan_saves_nothing_of_it_and_its_replay_ends_in_the_same_bits(
    spec, undisturbed_stage, tmp_path, monkeypatch, inject, at
):
    poison, own = Poison(times=1, at=at), replace(spec, stage_dir=tmp_path)
    inject(poison, monkeypatch)
    with pytest.raises(Diverged) as caught:
        run_stage(own, never)
    assert (poison.fired, caught.value.step) == (1, at)
    assert f"update {at}" in str(caught.value)
    assert poisoned(tmp_path / "checkpoints") == []
    result = run_stage(own, never)
    assert 0 < result.resumed_from <= at
    assert result.checkpoint_sha256 == undisturbed_stage.checkpoint_sha256
    assert course(tmp_path) == course(spec.stage_dir)


def test_poisoned_batch_norm_statistics_are_not_saved(spec, tmp_path, monkeypatch):
    def spoil(stage):
        next(value for name, value in stage.model.named_buffers() if name.endswith("running_var"))[0] = float("inf")

    poison = Poison(times=1, at=2)
    _after_the_update(poison, monkeypatch, spoil)
    model = ModelSettings(name="torchvision/shufflenet_v2_x0_5", input_size=16)
    settings = replace(spec.recipe, model=model, schedule=replace(spec.recipe.schedule, epochs=1))
    with pytest.raises(Diverged, match=r"after update 2: .*\.running_var are not finite"):
        run_stage(replace(spec, recipe=settings, stage_dir=tmp_path), never)
    assert poison.fired == 1
    assert {folder.name for folder in (tmp_path / "checkpoints").iterdir()} == {"step-00000001"}


def tags(place, key):
    """What the tracking store has under `key` in this run's runs."""
    known = json.dumps(json.loads(place.paths.run_json.read_text())["mlflow"])
    with sqlite3.connect(place.shared / "mlflow.db") as database:
        found = database.execute("select run_uuid, value from tags where key = ?", (key,)).fetchall()
    return [value for run, value in found if run in known]


def test_launch_that_meets_a_nan_once_replays_reports_it_and_ends_in_the_same_bytes(
    small_place, smallest, monkeypatch, caplog
):
    place, poison = small_place, Poison(times=1)
    in_the_loss(poison, monkeypatch)
    with caplog.at_level(logging.WARNING):
        # Neither budget has anything in it: a replay costs none.
        assert place.launch("cluster.max_failures=0", "cluster.max_losses=0") == 0
    assert poison.fired == 1
    assert artefacts(place.paths) == artefacts(smallest.paths)
    assert place.outcomes == [AttemptEnd.diverged, AttemptEnd.done]
    assert (place.entry.attempts[0].diverged_at, place.entry.passed_nans) == (AT, (AT,))
    assert f"the NaN at update {AT} did not come again" in caplog.text
    node = place.entry.attempts[0].where.machine
    assert any(f"met NaN at update {AT} on {node}, but" in line for line in status_lines(read_status(place.paths)))
    assert [value.startswith(f"{node}, pid ") for value in tags(place, "septet.node")] == [True]
    assert f"train at update {AT}" in (place.paths.report / "index.html").read_text()
    assert tags(place, "septet.passed_nan") == [str(AT)]
    assert f"update {AT}" in (place.stage_dir / "log.txt").read_text()
    assert poisoned(place.checkpoints) == []
    assert not place.leftovers()


@pytest.mark.slow
def test_launch_that_meets_a_nan_at_the_same_update_again_fails_the_member_at_once(
    small_place, smallest, monkeypatch, capsys
):
    place, poison = small_place, Poison(times=99)
    with monkeypatch.context() as patch:
        in_the_loss(poison, patch)
        assert place.launch() == 4
    assert poison.fired == 2, "one replay and no more"
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"train: update {AT}: loss nan" in said
    assert "again after a replay" in said
    assert place.outcomes == [AttemptEnd.diverged] * 2, "a budget was touched"
    assert place.entry.state is State.failed
    assert not place.has_submission()
    assert poisoned(place.checkpoints) == []
    assert not place.leftovers()
    # With what was wrong fixed, the same command resumes to the undisturbed bytes.
    assert place.launch() == 0
    assert artefacts(place.paths) == artefacts(smallest.paths)
