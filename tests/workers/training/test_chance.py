"""A stage whose net names the largest class for every image is at chance, and does not wait for a better error yet."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pictures import encoded, write_tree
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import f1_score
from stages import never, trained, weights
from tiny_stage import course

from workers.data.loading import centre_batches, pixel_statistics
from workers.data.store import open_store, prepare
from workers.models import build
from workers.settings import (
    ClassWeights,
    DatasetSettings,
    InitScheme,
    InitSettings,
    LossSettings,
    OptimizerSettings,
    Sampler,
    ScheduleSettings,
    Source,
)
from workers.storage import newest_checkpoint
from workers.training import run_stage


@pytest.fixture(scope="module")
def ten_to_one(tmp_path_factory):
    """440 images of noise, from which nothing can be learnt but that one class has 400 of them."""
    folder = tmp_path_factory.mktemp("images")
    names = [f"train/{'many' if number < 400 else 'few'}/{number}.png" for number in range(440)]
    settings = DatasetSettings(source=Source.folder, root=str(write_tree(folder, names)), size=10)
    return prepare(settings, tmp_path_factory.mktemp("store"))


def test_net_that_names_the_largest_class_is_at_chance_and_its_rate_is_not_cut(ten_to_one, tiny_spec):
    model = replace(tiny_spec.recipe.model, input_size=10, pool_size=2)
    recipe = replace(
        tiny_spec.recipe,
        model=model,
        optimizer=OptimizerSettings(lr=0.01, batch_size=128),
        schedule=ScheduleSettings(epochs=6, patience=1, latest=()),
    )
    spec = replace(tiny_spec, store=ten_to_one, recipe=recipe)
    result = run_stage(spec, never)
    # A tenth of val and of dev is of the other class, far below 1 − 1/2.
    assert result.val_error < 0.15 and result.dev_error < 0.15
    assert result.at_chance
    saved = newest_checkpoint(spec.stage_dir / "checkpoints")
    assert saved is not None and saved.state["train"]["schedule"]["cuts"] == 0


@pytest.fixture(scope="module")
def noughts(tmp_path_factory):
    """Scanned digits, "is it a nought?": 400 others and 40 noughts to train on, twice as many of each as val."""
    digits, files = load_digits(), {}
    for name, which, count in (("few", digits.target == 0, 40), ("many", digits.target != 0, 400)):
        for number, image in enumerate(digits.images[which][: 3 * count]):
            picture = Image.fromarray((image * 15.9).astype(np.uint8)).resize((18, 18), Image.Resampling.BILINEAR)
            files[f"{'train' if number < count else 'val'}/{name}/{number}.png"] = encoded(picture.convert("RGB"))
    settings = DatasetSettings(
        source=Source.folder, root=str(write_tree(tmp_path_factory.mktemp("images"), files)), size=18
    )
    return prepare(settings, tmp_path_factory.mktemp("store"))


def macro_f1(spec, store):
    net = build(spec.recipe.model, store.num_classes)
    net.load_state_dict({name: torch.from_numpy(value) for name, value in weights(spec).items()})
    batches = centre_batches(store, "val", pixel_statistics(store, spec.recipe.augmentation), 16)
    guesses = torch.cat([net.eval()(batch.images).argmax(dim=1) for batch in batches])
    return f1_score(store.labels("val"), guesses, average="macro")


def test_balanced_class_weights_learn_a_rare_class_that_the_plain_loss_does_not_see(noughts, tiny_spec, tmp_path):
    """In six epochs. In eight, at twice the rate, the plain loss learnt it too with two seeds of three."""
    scores = {}
    for kind in ClassWeights:
        recipe = replace(
            tiny_spec.recipe,
            model=replace(tiny_spec.recipe.model, width=0.1, fc_units=32, dropout=0.0),
            optimizer=OptimizerSettings(lr=0.01, batch_size=64),
            schedule=ScheduleSettings(epochs=6, cuts=0, latest=()),
            loss=LossSettings(class_weights=kind),
        )
        spec = replace(tiny_spec, store=noughts, stage_dir=tmp_path / kind, recipe=recipe)
        result = run_stage(spec, never)
        scores[kind] = (result.at_chance, result.val_error, macro_f1(trained(spec), open_store(noughts)))
    at_chance, error, f1 = scores[ClassWeights.none]
    assert at_chance and error == 80 / 880 and f1 < 0.5
    at_chance, error, f1 = scores[ClassWeights.balanced]
    assert not at_chance and error < 0.05 and f1 > 0.85


@pytest.mark.parametrize(("std", "at_chance"), [(1e-30, True), (0.1, False)])
def test_training_error_of_a_balanced_sampler_is_judged_by_what_it_draws(noughts, tiny_spec, std, at_chance):
    """Where nothing is held out: half of the images drawn are of the rare class, which is an eleventh of all."""
    recipe = replace(
        tiny_spec.recipe,
        model=replace(tiny_spec.recipe.model, width=0.1, fc_units=32, dropout=0.0),
        init=InitSettings(scheme=InitScheme.gaussian, std=std),
        optimizer=OptimizerSettings(lr=0.01, batch_size=64),
        schedule=ScheduleSettings(epochs=1, cuts=0, latest=()),
        augmentation=replace(tiny_spec.recipe.augmentation, sampler=Sampler.balanced),
        refit="train",
    )
    spec = replace(tiny_spec, store=noughts, recipe=recipe)
    result = run_stage(spec, never)
    (*_, (_, last)) = course(spec.stage_dir)
    assert result.at_chance is at_chance and last["train/top1_error"] > 0.1
