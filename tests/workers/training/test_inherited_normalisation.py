"""A stage that is given another's normalisation uses it wherever pixels reach its net, to the bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from stages import never, trained, weights

from workers.data.loading import IMAGENET_MEAN, pixel_statistics
from workers.data.store import open_store, prepare
from workers.inference import load_member, predict, predict_images, prediction
from workers.protocol import Normaliser, PredictSpec
from workers.settings import AugmentationSettings, Crops, DatasetSettings, Normalisation, Source
from workers.training import stage

AUTO, MEAN_IMAGE = Normalisation.auto, Normalisation.mean_image
SCALE = ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))


@pytest.fixture(scope="module")
def other_store(tmp_path_factory):
    """Bright coloured noise, whose statistics are nothing like those of digits."""
    root, generator = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    for name in ("a", "b"):
        (root / "train" / name).mkdir(parents=True)
        for index in range(20):
            pixels = generator.integers([100, 120, 140], [200, 256, 256], (18, 18, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "train" / name / f"{index}.png")
    return prepare(DatasetSettings(source=Source.folder, root=str(root), size=18), tmp_path_factory.mktemp("stores"))


def test_statistics_are_the_given_ones_and_colours_stay_the_store_s(digits_store, other_store):
    own, other = open_store(digits_store), open_store(other_store)
    plain = pixel_statistics(own, AugmentationSettings())
    found = pixel_statistics(own, AugmentationSettings(), Normaliser(AUTO, other_store))
    assert torch.equal(found.mean, torch.tensor(other.mean)) and torch.equal(found.std, torch.tensor(other.std))
    assert not torch.equal(found.mean, plain.mean)
    image = pixel_statistics(own, AugmentationSettings(), Normaliser(MEAN_IMAGE, other_store)).mean_image
    assert image is not None and np.array_equal(image, other.mean_image())
    # These need no store: the ancestor's may be gone when the run predicts.
    gone = other_store.with_name("gone")
    scaled = pixel_statistics(own, AugmentationSettings(), Normaliser(AUTO, gone, SCALE))
    imagenet = pixel_statistics(own, AugmentationSettings(), Normaliser(Normalisation.imagenet, gone))
    assert torch.equal(imagenet.mean, torch.tensor(IMAGENET_MEAN))
    assert torch.equal(scaled.mean, torch.tensor(SCALE[0])) and torch.equal(scaled.std, torch.tensor(SCALE[1]))
    assert all(torch.equal(one.components, plain.components) for one in (found, scaled))


def predicted(spec, name):
    folder = spec.stage_dir.parent / name
    numbers = (spec.recipe, spec.numerics)
    asked = PredictSpec("base1", spec.stage_dir, spec.store, folder, ("val",), *numbers, normaliser=spec.normaliser)
    return predict(asked, never)[0].sha256


def test_training_evaluation_and_prediction_see_the_other_s_pixels_to_the_bit(tiny_spec, other_store, monkeypatch):
    heir = trained(replace(tiny_spec, normaliser=Normaliser(AUTO, other_store)))
    plain = trained(replace(tiny_spec, stage_dir=tiny_spec.stage_dir.with_name("plain")))
    predictions = predicted(heir, "heir-predictions")
    # Now as if they were its own.
    other, open_here, open_there = open_store(other_store), stage.open_on_node, prediction.open_store
    same = {"mean": other.mean, "std": other.std}
    monkeypatch.setattr(stage, "open_on_node", lambda *given: replace(open_here(*given), **same))
    monkeypatch.setattr(prediction, "open_store", lambda path: replace(open_there(path), **same))
    slow = trained(replace(tiny_spec, stage_dir=tiny_spec.stage_dir.with_name("slow")))
    found, wanted, others = weights(heir), weights(slow), weights(plain)
    assert {name: value.tobytes() for name, value in found.items()} == {
        name: value.tobytes() for name, value in wanted.items()
    }
    assert any(value.tobytes() != others[name].tobytes() for name, value in found.items())
    assert (heir.stage_dir / "DONE.json").read_bytes() == (slow.stage_dir / "DONE.json").read_bytes()
    assert predictions == predicted(slow, "slow-predictions") != predicted(plain, "plain-predictions")


def test_new_images_are_predicted_with_the_given_statistics(tiny_spec, other_store):
    heir = trained(replace(tiny_spec, normaliser=Normaliser(AUTO, other_store)))
    predicted(heir, "predictions")
    images = list(open_store(heir.store).images("val"))
    place = (heir.stage_dir, heir.store, heir.recipe, heir.numerics)
    whole = np.load(heir.stage_dir.parent / "predictions" / "val.npy")
    assert predict_images(load_member(*place, heir.normaliser), images, Crops.ten).tobytes() == whole.tobytes()
    assert predict_images(load_member(*place), images, Crops.ten).tobytes() != whole.tobytes()
