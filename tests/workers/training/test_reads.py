"""What updates measure is read many at a time: the host waits for nothing in between, and nothing is lost by it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from stages import never, stop_after
from synchronisations import synchronisations
from tiny_stage import TINY, course, make_spec, make_store

from workers.errors import Diverged, Stopped
from workers.protocol import Numerics
from workers.settings import ClassWeights, Layout, LossSettings, ModelSettings, OptimizerSettings
from workers.storage import read_weights
from workers.training import loop, run_stage
from workers.training.readings import EpochSums, Readings

# Updates an epoch, and updates between two points of metrics, which is how many are read at once.
PER_EPOCH, AT_ONCE = 24, 12


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    recipe = replace(
        TINY, optimizer=OptimizerSettings(lr=0.02, batch_size=50), schedule=replace(TINY.schedule, epochs=2)
    )
    folder = tmp_path_factory.mktemp("undisturbed")
    return make_spec(make_store(tmp_path_factory.mktemp("store")), folder, recipe, checkpoint_updates=100)


@pytest.fixture(scope="module")
def undisturbed(spec):
    return run_stage(spec, never)


def watched(monkeypatch, spoil=lambda update: None):
    """Counts the waits of each update, and how many updates each reading returned."""
    waits, reads = [], []
    make, read = loop._Update.make, Readings.read

    def watched_make(update, state):
        with synchronisations() as found:
            after = make(update, state)
            spoil(update)
        waits.append(found.count)
        return after

    def watched_read(readings, sums):
        reads.append(len(readings._updates))
        return read(readings, sums)

    monkeypatch.setattr(loop._Update, "make", watched_make)
    monkeypatch.setattr(Readings, "read", watched_read)
    return waits, reads


def ways(spec):
    clipped = replace(spec.recipe, optimizer=replace(spec.recipe.optimizer, clip_norm=1.0))
    cut = replace(spec.recipe, optimizer=replace(spec.recipe.optimizer, shards=2, micro_batch=10))
    norms = replace(spec.recipe, model=ModelSettings(name="torchvision/shufflenet_v2_x0_5", input_size=16))
    mixed = replace(
        spec.recipe,
        optimizer=replace(cut.optimizer, micro_batch=0),
        augmentation=replace(cut.augmentation, mixup=0.2, cutmix=1.0),
        loss=LossSettings(label_smoothing=0.1, class_weights=ClassWeights.balanced),
    )
    all_ways = (spec.recipe, clipped, cut, norms, mixed, replace(cut, loss=mixed.loss))
    return dict(zip(WAYS, all_ways, strict=True))


WAYS = ("plain", "clipped", "shards", "batch norm", "mixed", "weighted")


@pytest.mark.parametrize("way", WAYS)
def test_no_update_waits_for_the_device(spec, tmp_path, monkeypatch, way):
    waits, reads = watched(monkeypatch)
    with pytest.raises(Stopped):
        run_stage(replace(spec, recipe=ways(spec)[way], stage_dir=tmp_path), stop_after(AT_ONCE + 3))
    assert waits == [0] * (AT_ONCE + 3)
    assert reads == [AT_ONCE, 3]


def test_a_planted_read_is_counted(spec, tmp_path, monkeypatch):
    def spoil(update):
        update.readings._values[0, 0].item()

    waits, _ = watched(monkeypatch, spoil)
    with pytest.raises(Stopped):
        run_stage(replace(spec, stage_dir=tmp_path), stop_after(2))
    assert waits == [1, 1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("way", WAYS)
def test_no_update_waits_for_a_gpu(spec, tmp_path, monkeypatch, way):
    """By torch's own word: in this mode it raises at each wait."""
    make = loop._Update.make

    def watched_make(update, state):
        torch.cuda.set_sync_debug_mode("error")
        try:
            return make(update, state)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(loop._Update, "make", watched_make)
    on_gpu = replace(spec, recipe=ways(spec)[way], stage_dir=tmp_path, numerics=Numerics(device="cuda"))
    with pytest.raises(Stopped):
        run_stage(on_gpu, stop_after(AT_ONCE + 3))


def test_a_checkpoint_is_never_ahead_of_what_was_read(spec, tmp_path, monkeypatch):
    _, reads = watched(monkeypatch)
    with pytest.raises(Stopped):
        run_stage(replace(spec, stage_dir=tmp_path, checkpoint_updates=5), stop_after(AT_ONCE + 4))
    assert reads == [5, 5, 2, 3, 1]


@pytest.mark.slow
@pytest.mark.parametrize("interval", [1, 4, 100])
def test_reading_seldom_changes_neither_metrics_nor_bits(spec, undisturbed, tmp_path, interval):
    result = run_stage(replace(spec, stage_dir=tmp_path, checkpoint_updates=interval), never)
    assert result.checkpoint_sha256 == undisturbed.checkpoint_sha256
    assert course(tmp_path) == course(spec.stage_dir)


def poisoned(monkeypatch, at, times):
    """Makes the gradient of update `at` infinite, `times` times."""
    compute, make, now = loop.compute_gradients, loop._Update.make, {"step": 0, "left": times}

    def spoilt(forward, parameters, *rest):
        measured = compute(forward, parameters, *rest)
        if now["step"] == at and now["left"]:
            now["left"] -= 1
            parameters[0].grad[0, 0, 0, 0] = float("inf")
        return measured

    def noted(update, state):
        now["step"] = state.step
        return make(update, state)

    monkeypatch.setattr(loop, "compute_gradients", spoilt)
    monkeypatch.setattr(loop._Update, "make", noted)


@pytest.mark.parametrize("at", np.random.default_rng(19).choice(2 * PER_EPOCH, 6, replace=False).tolist())
def test_a_nan_amid_updates_that_were_not_read_is_named_and_what_came_after_it_is_not_kept(
    spec, undisturbed, tmp_path, monkeypatch, at
):
    own = replace(spec, stage_dir=tmp_path, checkpoint_updates=9)
    poisoned(monkeypatch, at, times=1)
    with pytest.raises(Diverged, match=f"^update {at}: .* gradient norm inf") as caught:
        run_stage(own, never)
    assert caught.value.step == at
    kept = sorted((tmp_path / "checkpoints").iterdir()) if at >= 9 else []
    assert all(int(folder.name.removeprefix("step-")) <= at for folder in kept)
    assert all(np.isfinite(value).all() for folder in kept for value in read_weights(folder).model.values())
    # It was a passing fault: what was done since the newest checkpoint is done again, and ends in the same bits.
    result = run_stage(own, never)
    assert result.checkpoint_sha256 == undisturbed.checkpoint_sha256
    assert course(tmp_path) == course(spec.stage_dir)


def test_readings_are_summed_in_order_and_only_once():
    readings = Readings(3, torch.device("cpu"))
    for step, (loss, missed) in enumerate([(0.1, 3), (0.7, 2), (0.3, 1)]):
        readings.record(step, 5, torch.tensor(loss), torch.tensor(1.0), torch.tensor(missed))
    found = readings.read(EpochSums(1.0, 10, 20))
    assert (found.missed, found.images) == (16, 35)
    assert found.loss == ((1.0 + np.float32(0.1).item() * 5) + np.float32(0.7).item() * 5) + np.float32(0.3).item() * 5
    assert readings.read(found) == found


def test_gradients_norm_is_that_of_the_nets_own_order_of_weights(spec, tmp_path, monkeypatch):
    """Another order rounds the norm otherwise, which scales all weights where it is clipped."""
    halves = replace(spec.recipe.model, layout=Layout.halves, lrn_across_halves=False)
    own = replace(spec, recipe=replace(spec.recipe, model=halves), stage_dir=tmp_path)
    norm_of, seen = torch.nn.utils.get_total_norm, []

    def spoil(update):
        wanted = [parameter.grad for parameter in update._stage.model.parameters()]
        assert len(seen[-1]) == len(wanted)
        assert all(found is gradient for found, gradient in zip(seen[-1], wanted, strict=True))

    def noted(gradients):
        seen.append(gradients)
        return norm_of(gradients)

    monkeypatch.setattr(torch.nn.utils, "get_total_norm", noted)
    watched(monkeypatch, spoil)
    with pytest.raises(Stopped):
        run_stage(own, stop_after(2))
    assert len(seen) == 2
