"""What is held in memory grows as it has to: with what is kept of an evaluation, a part of a prediction, an epoch."""

import numpy as np
import pytest
import torch
from tiny_stage import make_spec, make_store, never

from workers.data.loading import augment, batches
from workers.data.loading.augment import PixelStatistics, Windows, draw_epoch
from workers.data.loading.batches import Batch
from workers.inference import prediction
from workers.protocol import Numerics, PredictSpec
from workers.settings import AugmentationSettings
from workers.storage import write_finished
from workers.training.evaluation import evaluate
from workers.training.stage import run_stage


def batches_of(*sizes):
    statistics = PixelStatistics(torch.zeros(3), torch.ones(3), torch.zeros(3, 3))
    generator = torch.Generator().manual_seed(0)
    for size in sizes:
        pixels = torch.randint(0, 256, (size, 4, 4, 3), dtype=torch.uint8, generator=generator)
        yield Batch(pixels, torch.zeros(size, dtype=torch.int64), Windows.all_at(0, size), None, statistics)


@pytest.mark.parametrize("every", [1, 3, 7, 100])
def test_evaluation_keeps_the_probabilities_of_spaced_images_alone(every):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 5))
    sizes = (5, 5, 1, 4)
    whole = evaluate(net, batches_of(*sizes), Numerics(), 1)
    found = evaluate(net, batches_of(*sizes), Numerics(), every)
    assert torch.equal(found.probabilities, whole.probabilities[::every])
    assert found == whole and evaluate(net, batches_of(*sizes), Numerics()).probabilities is None


def test_predictions_are_written_as_they_come(tmp_path, monkeypatch):
    store = make_store(tmp_path / "store")
    spec = make_spec(store, tmp_path / "m" / "train")
    write_finished(spec.stage_dir, spec.stage_hash, run_stage(spec, never))
    parts, real = [], prediction.write_npy

    def spied(path, like, check, given):
        def each():
            for part in given:
                parts.append(part.shape)
                yield part

        return real(path, like, check, each())

    monkeypatch.setattr(prediction, "write_npy", spied)
    asked = PredictSpec("m", spec.stage_dir, store, tmp_path / "predictions", ("val",), spec.recipe, spec.numerics)
    (described,) = prediction.predict(asked, never)
    assert sum(rows for rows, _ in parts) == described.num_rows > prediction._IMAGES_AT_ONCE
    assert max(parts)[0] == prediction._IMAGES_AT_ONCE
    assert np.load(tmp_path / "predictions" / "val.npy").shape == (described.num_rows, described.num_classes)


def test_draws_of_an_epoch_take_33_bytes_an_image():
    draws = draw_epoch(0, 0, 1000, 32, AugmentationSettings())
    assert sum(each.nbytes for each in vars(draws).values()) == 33_000


@pytest.mark.parametrize(("depth", "held"), [(0, 1), (2, 2)])
def test_epochs_are_held_only_if_batches_of_the_next_are_drawn_ahead(tmp_path, monkeypatch, depth, held):
    from workers.data.store import open_store

    store, drawn = open_store(make_store(tmp_path)), []
    monkeypatch.setattr(
        batches, "draw_epoch", lambda *given, **named: drawn.append(1) or augment.draw_epoch(*given, **named)
    )
    own = batches.TrainingBatches(
        store, batches.pixel_statistics(store, AugmentationSettings()), AugmentationSettings(),
        seed=0, batch_size=4, input_size=16, depth=depth,
    )  # fmt: skip
    for epoch in (0, 1, 0, 1):
        own._draws(epoch)
    own.close()
    assert len(drawn) == (4 if held == 1 else 2)
