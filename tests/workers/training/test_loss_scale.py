"""fp16 with a scaled loss, tried on CPUs: what is skipped, how the scale moves, equal bits over a resume."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from stages import contents, never, stop_after, trained, weights
from synchronisations import synchronisations
from tiny_stage import TINY, course, interrupted, make_spec, make_store
from torch.nn import functional

from workers.data.loading import TrainingBatches, pixel_statistics
from workers.data.store import open_store
from workers.errors import Diverged, Stopped, StorageError
from workers.models import build, initialise
from workers.protocol import Numerics
from workers.settings import OptimizerSettings
from workers.training import loop, run_stage
from workers.training.gradients import dropout_seed
from workers.training.loop import TrainState
from workers.training.optimizer import LossScale, build_optimizer

CPU = torch.device("cpu")
FUSED = {
    "sgd": OptimizerSettings(),
    "nesterov": OptimizerSettings(nesterov=True),
    "plain sgd": OptimizerSettings(momentum=0.0),
    **{name: OptimizerSettings(name=name) for name in ("adam", "adamw", "adagrad")},
}
# So high that the first updates of the tiny stage overflow, and so quick to grow that later ones do again.
SCALER = partial(torch.amp.GradScaler, init_scale=2.0**22, growth_interval=3)


@pytest.fixture
def scaler(monkeypatch):
    monkeypatch.setattr(torch.amp, "GradScaler", SCALER)


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    recipe = replace(TINY, optimizer=replace(TINY.optimizer, clip_norm=1.0))
    made = make_spec(make_store(tmp_path_factory.mktemp("store")), tmp_path_factory.mktemp("whole"), recipe)
    made = replace(made, numerics=Numerics(precision="fp16"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.amp, "GradScaler", SCALER)
        return trained(made)


def one_layer(settings):
    net = torch.nn.Sequential(torch.nn.Linear(3, 2))
    with torch.no_grad():
        net[0].weight.fill_(0.5)
        net[0].bias.zero_()
    return net, build_optimizer(net, settings, (), {})


def stepped(net, scale, size=1.0):
    """One update of a loss whose gradient is `size` everywhere; what `step` says in place of a norm of 1."""
    net.zero_grad()
    scale.scale((net(torch.ones(1, 3)) * size).sum()).backward()
    scale.unscale()
    return scale.step(torch.ones(())).item()


def now(scale):
    return scale.state()["scale"], scale.state()["_growth_tracker"]


def values(net, optimizer):
    state = [{key: value.clone() for key, value in optimizer.state[weight].items()} for weight in net.parameters()]
    return [weight.detach().clone() for weight in net.parameters()], state


@pytest.mark.parametrize("settings", FUSED.values(), ids=FUSED.keys())
def test_skipped_first_update_leaves_everything_as_if_it_had_not_been(monkeypatch, settings):
    # Torch's fused SGD makes its momentum in memory that is not set.
    monkeypatch.setattr(torch, "empty_like", lambda like, **_: torch.full_like(like, torch.nan))
    made, own = one_layer(settings)
    whole, other = one_layer(settings)
    scale, straight = (LossScale(one, CPU, {}, enabled=True) for one in (own, other))
    assert stepped(made, scale, torch.inf) == -(2.0**15)
    assert all(torch.equal(*pair) for pair in zip(made.parameters(), whole.parameters(), strict=True))
    for _ in range(2):
        assert stepped(made, scale) == stepped(whole, straight) == 1
        torch.testing.assert_close(values(made, own), values(whole, other), rtol=0, atol=0)
    assert (now(scale), now(straight)) == ((2.0**15, 2), (2.0**16, 2))


@pytest.mark.usefixtures("scaler")
def test_scale_falls_at_each_skip_and_grows_after_its_interval():
    net, optimizer = one_layer(FUSED["adamw"])
    scale, seen = (
        LossScale(optimizer, CPU, {**SCALER("cpu").state_dict(), "scale": 8.0, "_growth_tracker": 2}, enabled=True),
        [],
    )
    for size in (1.0, torch.nan, torch.inf, 1.0, 1.0, 1.0, 1.0):
        stepped(net, scale, size)
        seen.append(now(scale))
    assert seen == [(16.0, 0.0), (8.0, 0.0), (4.0, 0.0), (4.0, 1.0), (4.0, 2.0), (8.0, 0.0), (8.0, 1.0)]


@pytest.mark.parametrize("settings", FUSED.values(), ids=FUSED.keys())
@pytest.mark.parametrize("size", [1.0, torch.inf])
def test_no_step_under_a_scale_waits(settings, size):
    net, optimizer = one_layer(settings)
    scale = LossScale(optimizer, CPU, {}, enabled=True)
    for _ in range(2):
        scale.scale((net(torch.ones(1, 3)) * size).sum()).backward()
        with synchronisations() as found:
            scale.unscale()
            scale.step(torch.ones(()))
        assert found.places == []


@pytest.mark.slow
@pytest.mark.usefixtures("scaler")
def test_no_update_of_a_stage_in_fp16_waits(spec, tmp_path, monkeypatch):
    make, places = loop._Update.make, []

    def watched(update, state):
        with synchronisations() as found:
            after = make(update, state)
        places.append(found.places)
        return after

    monkeypatch.setattr(loop._Update, "make", watched)
    with pytest.raises(Stopped):
        run_stage(replace(spec, stage_dir=tmp_path), stop_after(5))
    assert places == [[]] * 5


def test_other_optimizers_would_wait_and_so_are_refused():
    net, optimizer = one_layer(OptimizerSettings(name="rmsprop"))
    scale = LossScale(optimizer, CPU, {}, enabled=True)
    scale.scale(net(torch.ones(1, 3)).sum()).backward()
    with synchronisations() as found:
        scale.step(torch.ones(()))
    assert found.count == 1


def by_hand(spec):
    """The loop of torch's own documentation, with the same initial weights and batches; what each update found."""
    recipe, store = spec.recipe, open_store(spec.store)
    net = build(recipe.model, store.num_classes).to(memory_format=torch.channels_last)
    initialise(net, recipe.init, spec.seed)
    statistics, own = pixel_statistics(store, recipe.augmentation), recipe.optimizer
    batches = TrainingBatches(
        *(store, statistics, recipe.augmentation), seed=spec.seed, batch_size=own.batch_size, input_size=16
    )
    optimizer, scaler, scales = torch.optim.AdamW(net.parameters(), lr=own.lr, fused=True), SCALER("cpu"), []
    for step in range(12):
        batch = batches.take(step)
        optimizer.zero_grad()
        torch.manual_seed(dropout_seed(spec.seed, step, 0))
        with torch.autocast("cpu", torch.float16):
            logits = net(batch.images)
        scaler.scale(functional.cross_entropy(logits.float(), batch.labels)).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(net.parameters(), own.clip_norm)
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return net.state_dict(), scales


@pytest.mark.usefixtures("scaler")
@pytest.mark.slow
def test_stage_equals_torchs_own_loop_with_a_scaler(spec, tmp_path):
    own = OptimizerSettings(name="adamw", lr=0.002, batch_size=400, weight_decay=0.01, decay_norms=True)
    schedule = replace(spec.recipe.schedule, cuts=0, latest=(), warmup_updates=0)
    recipe = replace(spec.recipe, optimizer=replace(own, clip_norm=1.0, bias_lr_scale=1.0), schedule=schedule)
    spec = trained(replace(spec, recipe=recipe, stage_dir=tmp_path))
    (theirs, scales), ours = by_hand(spec), contents(spec)
    assert len(set(scales)) > 2 and scales[0] < 2.0**22 and any(b > a for a, b in pairwise(scales))
    assert ours.state["train"]["loss_scale"]["scale"] == scales[-1]
    assert [name for name, value in theirs.items() if not torch.equal(torch.from_numpy(ours.model[name]), value)] == []


def test_skipped_updates_are_counted_and_left_out_of_the_readings(spec):
    points = dict(course(spec.stage_dir))
    skipped = {step: point.get("train/skipped", 0) for step, point in points.items()}
    assert skipped[3] > 0
    assert all(np.isfinite(list(point.values())).all() for point in points.values())
    assert 0 < contents(spec).state["train"]["loss_scale"]["scale"] < 2.0**22


@pytest.mark.slow
@pytest.mark.usefixtures("scaler")
@pytest.mark.parametrize("updates", [1, 2, 5, 7, 11])
def test_stage_resumes_to_the_same_bits_with_its_scale(spec, tmp_path, updates):
    resumed = trained(interrupted(spec, tmp_path, updates))
    assert contents(resumed).state["train"] == contents(spec).state["train"]
    assert all(np.array_equal(value, weights(spec)[name]) for name, value in weights(resumed).items())
    assert course(tmp_path) == course(spec.stage_dir)


@pytest.mark.slow
@pytest.mark.usefixtures("scaler")
def test_stage_whose_scale_was_lost_ends_in_other_bits_and_so_is_refused(spec, tmp_path, monkeypatch):
    lost = interrupted(spec, tmp_path / "lost", 7)
    with monkeypatch.context() as patch:
        patch.setattr(
            loop, "LossScale", lambda optimizer, device, _, enabled: LossScale(optimizer, device, {}, enabled=enabled)
        )
        trained(lost)
    assert any(not np.array_equal(value, weights(spec)[name]) for name, value in weights(lost).items())
    refused, own = interrupted(spec, tmp_path / "refused", 7), TrainState.from_json
    monkeypatch.setattr(TrainState, "from_json", lambda value: replace(own(value), loss_scale={}))
    with pytest.raises(StorageError, match="no valid checkpoint left"):
        run_stage(refused, never)


def test_gradients_that_no_scale_makes_finite_are_a_divergence_with_its_update(spec, tmp_path, monkeypatch):
    """From a scale of 4, the third skipped update in a row leaves 0.5."""
    monkeypatch.setattr(torch.amp, "GradScaler", partial(SCALER, init_scale=4.0, growth_interval=1000))
    compute, made = loop.compute_gradients, []

    def spoilt(forward, parameters, *rest):
        measured = compute(forward, parameters, *rest)
        made.append(len(made))
        if len(made) > 2:
            parameters[0].grad[0, 0, 0, 0] = torch.inf
        return measured

    monkeypatch.setattr(loop, "compute_gradients", spoilt)
    with pytest.raises(Diverged, match=r"^update 4: .*at a loss scale of 1; .*precision=fp32$") as caught:
        run_stage(replace(spec, stage_dir=tmp_path), never)
    assert caught.value.step == 4


def test_epoch_of_skipped_updates_alone_has_no_loss(spec, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.amp, "GradScaler", partial(SCALER, init_scale=2.0**40))
    with pytest.raises(Stopped):
        run_stage(replace(spec, stage_dir=tmp_path), stop_after(3))
    point = course(tmp_path)[-1][1]
    assert point["train/skipped"] == 3 and "train/loss" not in point
