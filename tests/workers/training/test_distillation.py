"""A student's loss beside plain torch, its exact resume, and what it refuses."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from stages import never
from synchronisations import synchronisations
from tiny_stage import TINY, interrupted, make_spec, run_stopped_at
from torch.nn import functional

from workers.data.folds import assign
from workers.data.loading import TrainingBatches, pixel_statistics
from workers.data.store import open_store
from workers.errors import CheckFailed
from workers.models import build, initialise
from workers.protocol import HeldFold, Numerics, Teacher
from workers.settings import AugmentationSettings, Distil, InitSettings, OptimizerSettings
from workers.storage import sha256_of
from workers.training import loop, run_stage
from workers.training.gradients import compute_gradients
from workers.training.mixing import Mix

PLAIN = OptimizerSettings(batch_size=50)
K = 3


@pytest.fixture
def taught(tiny_spec):
    """A batch of fifty digits, with probabilities of teachers."""
    store, augmentation = open_store(tiny_spec.store), tiny_spec.recipe.augmentation
    statistics = pixel_statistics(store, augmentation)
    batch = TrainingBatches(store, statistics, augmentation, seed=1, batch_size=50, input_size=16).draw(0, 0)
    soft = torch.from_numpy(np.random.default_rng(0).dirichlet(np.ones(10), len(batch)).astype(np.float32))
    return replace(batch, taught=soft)


def still(model):
    """A net without dropout, whose draws are not what is compared here."""
    module = build(replace(model, dropout=0.0), 10).to(memory_format=torch.channels_last)
    initialise(module, InitSettings(), seed=0)
    return module.train()


def gradients(module):
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def computed(module, batch, settings, **how):
    compute_gradients(module, list(module.parameters()), [], batch, settings, Numerics(), lambda _: 1, **how)
    return gradients(module)


def of_hand(module, taught, distil, label_loss):
    logits = module(taught.images).float()
    logs = functional.log_softmax(logits / distil.temperature, dim=1)
    soft = -(taught.taught * logs).sum(dim=1).mean() * distil.temperature**2
    module.zero_grad()
    ((1 - distil.weight) * label_loss(logits) + distil.weight * soft).backward()
    return gradients(module)


@pytest.mark.parametrize("distil", [Distil(0.3, 1.0), Distil(0.7, 2.5), Distil(1.0, 4.0)])
def test_loss_is_the_weighted_sum_of_both_parts_and_smoothing_is_the_labels_alone(tiny_spec, taught, distil):
    module = still(tiny_spec.recipe.model)
    weights = torch.linspace(0.5, 1.5, 10)
    criterion = torch.nn.CrossEntropyLoss(weights, label_smoothing=0.1)
    wanted = of_hand(copy.deepcopy(module), taught, distil, lambda logits: criterion(logits, taught.labels))
    found = computed(module, taught, PLAIN, criterion=criterion, distil=distil)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-4, atol=1e-6)


def test_pieces_of_a_batch_sum_to_the_whole_with_weights_of_classes(tiny_spec, taught):
    module, distil = still(tiny_spec.recipe.model), Distil(0.6, 2.0)
    criterion = torch.nn.CrossEntropyLoss(torch.linspace(0.2, 2.0, 10))
    whole = computed(copy.deepcopy(module), taught, PLAIN, criterion=criterion, distil=distil)
    cut = replace(PLAIN, shards=3, micro_batch=7)
    parts = computed(module, taught, cut, criterion=criterion, distil=distil)
    for name, gradient in parts.items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-4, atol=1e-6)


def test_mixed_images_have_their_teachers_probabilities_mixed_by_the_same_share(tiny_spec, taught):
    module, distil, mix = still(tiny_spec.recipe.model), Distil(0.8, 1.0), Mix(0.7)
    mixed = replace(taught, taught=0.7 * taught.taught + 0.3 * taught.taught.roll(1, 0))
    wanted = computed(copy.deepcopy(module), mixed, PLAIN, mix_of=lambda _: _UnmixedTaught(mix), distil=distil)
    found = computed(module, taught, PLAIN, mix_of=lambda _: mix, distil=distil)
    assert all(torch.allclose(found[name], wanted[name], rtol=1e-4, atol=1e-7) for name in found)


class _UnmixedTaught:
    """Mixes images and labels; what teachers say was mixed by hand."""

    def __init__(self, mix):
        self._mix, self.share, self.images, self.targets = mix, mix.share, mix.images, mix.targets

    def rows(self, own):
        return own


def test_gradient_of_a_batch_without_teachers_has_the_bits_of_before(tiny_spec, taught):
    module = still(tiny_spec.recipe.model)
    untaught = replace(taught, taught=None)
    plain = computed(copy.deepcopy(module), untaught, PLAIN)
    same = computed(copy.deepcopy(module), untaught, PLAIN, distil=Distil(0.5, 2.0))
    other = computed(module, taught, PLAIN, distil=Distil(0.5, 2.0))
    assert all(torch.equal(plain[name], same[name]) for name in plain)
    assert not all(torch.equal(plain[name], other[name]) for name in plain)


@pytest.fixture(scope="module")
def student(digits_store, tmp_path_factory):
    """A stage of 26 updates an epoch that learns from three teachers, with mixing."""
    folder, store = tmp_path_factory.mktemp("student"), open_store(digits_store)
    folds = assign(store.contents("train"), store.labels("train"), K)[:, None]
    np.save(folder / "folds.npy", folds)
    draws, teachers = np.random.default_rng(0), []
    for number in range(K):
        path = folder / f"f{number}.npy"
        np.save(path, draws.dirichlet(np.ones(10), int((folds == number).sum())).astype("<f4"))
        teachers.append(Teacher(path, sha256_of(path), HeldFold(digits_store, folder / "folds.npy", number, 0)))
    recipe = replace(
        TINY,
        optimizer=OptimizerSettings(lr=0.02, batch_size=50),
        schedule=replace(TINY.schedule, epochs=1),
        augmentation=AugmentationSettings(mixup=0.4),
        distil=Distil(0.6, 2.0),
    )
    spec = make_spec(digits_store, folder / "whole", recipe, checkpoint_updates=5)
    return replace(spec, teachers=tuple(sorted(teachers, key=lambda one: one.sha256)))


@pytest.fixture(scope="module")
def whole(student):
    return run_stage(student, never)


def test_student_stopped_after_ten_updates_ends_with_the_bits_of_one_that_was_not(student, whole, tmp_path):
    assert run_stopped_at(student, tmp_path / "again", [10]).checkpoint_sha256 == whole.checkpoint_sha256


def swapped(student, tmp_path):
    """The same stage with other predictions of the first teacher: classes in reverse."""
    first, *others = student.teachers
    path = tmp_path / "other.npy"
    np.save(path, np.load(first.predictions)[:, ::-1].copy())
    return replace(student, teachers=(replace(first, predictions=path, sha256=sha256_of(path)), *others))


@pytest.mark.parametrize("change", ["teachers", "weight", "temperature", "none"])
def test_student_of_other_teachers_ends_with_other_bits(student, whole, tmp_path, change):
    """The negative control of the test above: all of it reaches the weights."""
    other = swapped(student, tmp_path) if change == "teachers" else student
    distil = {"weight": Distil(0.5, 2.0), "temperature": Distil(0.6, 1.0), "none": Distil()}.get(change)
    if distil is not None:
        teachers = () if change == "none" else student.teachers
        other = replace(student, recipe=replace(student.recipe, distil=distil), teachers=teachers)
    result = run_stage(replace(other, stage_dir=tmp_path / "other"), never)
    assert result.checkpoint_sha256 != whole.checkpoint_sha256


def test_resume_with_other_predictions_of_a_teacher_is_refused(student, tmp_path):
    stopped = interrupted(student, tmp_path / "stopped", 10)
    others = replace(swapped(student, tmp_path), stage_dir=stopped.stage_dir)
    with pytest.raises(CheckFailed, match="learned from other predictions than its teachers have now"):
        run_stage(others, never)
    assert not list(stopped.stage_dir.glob("checkpoints/corrupt*")), "the checkpoint is sound"
    with pytest.raises(CheckFailed, match="learned from other predictions"):
        run_stage(replace(stopped, teachers=()), never)
    run_stage(stopped, never)


def test_student_waits_for_nothing_of_the_device_inside_an_update(student, tmp_path, monkeypatch):
    waits, make = [], loop._Update.make

    def watched(update, state):
        with synchronisations() as found:
            after = make(update, state)
        waits.extend(found.places)
        return after

    monkeypatch.setattr(loop._Update, "make", watched)
    run_stage(replace(student, stage_dir=tmp_path / "watched"), never)
    assert waits == []
