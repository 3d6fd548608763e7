"""Twenty updates of others' nets through a whole stage beside the plainest loop in plain torch: equal bits."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from stages import trained, weights
from torch.nn import functional
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torchvision import models
from torchvision.transforms import v2

from workers.data.loading import TrainingBatches, pixel_statistics
from workers.data.store import open_store, prepare
from workers.models import build, initialise
from workers.settings import (
    AugmentationSettings,
    ClassWeights,
    DatasetSettings,
    Decay,
    KeptCheckpoint,
    LossSettings,
    ModelSettings,
    OptimizerSettings,
    ScheduleSettings,
    Source,
)
from workers.settings.averaging import AveragingSettings
from workers.training.mixing import draw_mix

NET, SIZE, NUM_UPDATES = "shufflenet_v2_x0_5", 32, 20
CONSTANT = ScheduleSettings(epochs=1, cuts=0, latest=())
COSINE = replace(CONSTANT, decay=Decay.cosine)
CYCLE = replace(CONSTANT, decay=Decay.one_cycle, warmup_share=0.3, final_lr_share=1 / 25e4)
NESTEROV = OptimizerSettings(lr=0.05, batch_size=59, nesterov=True)
ADAMW = OptimizerSettings(name="adamw", lr=0.002, batch_size=59, weight_decay=0.05, args={"betas": [0.9, 0.99]})
PLAIN_SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)
PLAIN_ADAMW = partial(torch.optim.AdamW, lr=0.002, betas=(0.9, 0.99), weight_decay=0.05, fused=True)
PLAIN_NET = partial(models.get_model, NET)
NO_SCHEDULE = partial(lr_scheduler.ConstantLR, factor=1.0)
PLAIN_COSINE = partial(lr_scheduler.CosineAnnealingLR, T_max=NUM_UPDATES)
PLAIN_CYCLE = partial(lr_scheduler.OneCycleLR, total_steps=NUM_UPDATES, cycle_momentum=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return prepare(DatasetSettings(source=Source.digits, size=SIZE + 2), tmp_path_factory.mktemp("store"))


def as_it_is(images, labels, step):
    return images, labels


def mixed_by_torchvision(spec, images, labels, step):
    """MixUp or CutMix of torchvision with the share and the box that were drawn here."""
    recipe = spec.recipe
    mix = draw_mix(spec.seed, step, recipe.model.input_size, recipe.augmentation, 0)
    transform, drawn = v2.MixUp(num_classes=10), {"lam": mix.share}
    if mix.box is not None:
        rows, columns = mix.box
        transform = v2.CutMix(num_classes=10)
        drawn = {"box": (columns.start, rows.start, columns.stop, rows.stop), "lam_adjusted": mix.share}
    transform.make_params = lambda _: drawn
    return transform(images, labels)


def plain_loop(
    spec,
    make_optimizer,
    make_schedule,
    criterion=functional.cross_entropy,
    mixed=as_it_is,
    make_net=PLAIN_NET,
    average=None,
):
    """What a script would do with the same initial weights and batches; with `average`, by torch's own averaging."""
    recipe, opened = spec.recipe, open_store(spec.store)
    net = make_net(num_classes=opened.num_classes).to(memory_format=torch.channels_last)
    begun = build(recipe.model, opened.num_classes)
    initialise(begun, recipe.init, spec.seed)
    net.load_state_dict(begun.state_dict())
    statistics = pixel_statistics(opened, recipe.augmentation)
    batches = TrainingBatches(
        opened,
        statistics,
        recipe.augmentation,
        seed=spec.seed,
        batch_size=recipe.optimizer.batch_size,
        input_size=recipe.model.input_size,
    )
    averaged = AveragedModel(net, multi_avg_fn=average)
    optimizer = make_optimizer(net.parameters())
    schedule = make_schedule(optimizer)
    for step in range(NUM_UPDATES):
        batch = batches.take(step)
        images, labels = mixed(batch.images, batch.labels, step)
        loss = criterion(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        averaged.update_parameters(net)
    if average is None:
        return net.state_dict()
    update_bn((batches.take(step).images for step in range(NUM_UPDATES)), averaged)
    return averaged.module.state_dict()


def warmed_up(averaged, current, num_averaged):
    decay = min(0.999, (1 + int(num_averaged)) / (10 + int(num_averaged)))
    for mean, weight in zip(averaged, current, strict=True):
        mean.lerp_(weight, 1 - decay)


@pytest.mark.parametrize(
    ("optimizer", "schedule", "plain_optimizer", "plain_schedule"),
    [
        (NESTEROV, CONSTANT, PLAIN_SGD, NO_SCHEDULE),
        pytest.param(NESTEROV, COSINE, PLAIN_SGD, PLAIN_COSINE, marks=pytest.mark.slow),
        pytest.param(ADAMW, CONSTANT, PLAIN_ADAMW, NO_SCHEDULE, marks=pytest.mark.slow),
        (ADAMW, CYCLE, PLAIN_ADAMW, partial(PLAIN_CYCLE, max_lr=0.002)),
    ],
    ids=["nesterov", "cosine", "adamw", "one cycle"],
)
def test_stage_equals_the_plainest_loop(store, tiny_spec, optimizer, schedule, plain_optimizer, plain_schedule):
    model = ModelSettings(name=f"torchvision/{NET}", input_size=SIZE)
    recipe = replace(tiny_spec.recipe, model=model, optimizer=optimizer, schedule=schedule)
    spec = replace(tiny_spec, store=store, recipe=recipe)
    check_equal(weights(trained(spec)), plain_loop(spec, plain_optimizer, plain_schedule))


def check_equal(ours, theirs, norm="conv1.1"):
    assert ours.keys() == theirs.keys() and ours[f"{norm}.num_batches_tracked"] == NUM_UPDATES
    unlike = [name for name, value in theirs.items() if not torch.equal(torch.from_numpy(ours[name]), value)]
    assert not unlike


@pytest.fixture
def ours(store, tiny_spec):
    """A stage of twenty updates with a loss and an augmentation."""

    def made(loss, **augmentation):
        model = ModelSettings(name=f"torchvision/{NET}", input_size=SIZE)
        settings = AugmentationSettings(reflect=False, **augmentation)
        recipe = replace(tiny_spec.recipe, model=model, optimizer=NESTEROV, schedule=CONSTANT, augmentation=settings)
        return replace(tiny_spec, store=store, recipe=replace(recipe, loss=loss))

    return made


def test_stage_with_label_smoothing_equals_the_plainest_loop(ours):
    spec = ours(LossSettings(label_smoothing=0.1))
    criterion = partial(functional.cross_entropy, label_smoothing=0.1)
    check_equal(weights(trained(spec)), plain_loop(spec, PLAIN_SGD, NO_SCHEDULE, criterion))


def test_stage_with_balanced_class_weights_equals_the_plainest_loop(ours, store):
    spec = ours(LossSettings(class_weights=ClassWeights.balanced))
    counts = np.bincount(open_store(store).labels("train"))
    balanced = torch.tensor(counts.sum() / (len(counts) * counts), dtype=torch.float32)
    criterion = partial(functional.cross_entropy, weight=balanced)
    check_equal(weights(trained(spec)), plain_loop(spec, PLAIN_SGD, NO_SCHEDULE, criterion))


@pytest.mark.parametrize(
    "alphas",
    [
        *(pytest.param({one: alpha}, marks=pytest.mark.slow) for one, alpha in (("mixup", 0.8), ("cutmix", 1.0))),
        {"mixup": 0.8, "cutmix": 1.0},
    ],
    ids=str,
)
def test_stage_with_mixed_images_equals_torchvisions_transforms(ours, alphas):
    spec = ours(LossSettings(label_smoothing=0.1), **alphas)
    criterion = partial(functional.cross_entropy, label_smoothing=0.1)
    mixed = partial(mixed_by_torchvision, spec)
    check_equal(weights(trained(spec)), plain_loop(spec, PLAIN_SGD, NO_SCHEDULE, criterion, mixed))


def test_stage_of_a_timm_net_equals_the_plainest_loop(store, tiny_spec):
    timm = pytest.importorskip("timm", reason="the extra `timm` is not installed")
    model = ModelSettings(name="timm/test_resnet", input_size=SIZE)
    spec = replace(
        tiny_spec, store=store, recipe=replace(tiny_spec.recipe, model=model, optimizer=ADAMW, schedule=COSINE)
    )
    theirs = plain_loop(spec, PLAIN_ADAMW, PLAIN_COSINE, make_net=partial(timm.create_model, "test_resnet"))
    check_equal(weights(trained(spec)), theirs, norm="bn1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("decay", "average"), [(0.18, get_ema_multi_avg_fn(0.18)), (0.999, warmed_up)], ids=["torch's", "warmed up"]
)
def test_exponential_average_and_its_batch_norm_equal_torch_s_own(store, tiny_spec, decay, average):
    model = ModelSettings(name=f"torchvision/{NET}", input_size=SIZE)
    averaging = AveragingSettings(ema_decay=decay)
    recipe = replace(tiny_spec.recipe, model=model, optimizer=ADAMW, schedule=CONSTANT, averaging=averaging)
    spec = replace(tiny_spec, store=store, recipe=recipe, keep=KeptCheckpoint.ema)
    check_equal(weights(trained(spec)), plain_loop(spec, PLAIN_ADAMW, NO_SCHEDULE, average=average))
