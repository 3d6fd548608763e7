"""Images a second of a training step, measured on random pixels: what `septet plan` reckons its makespan with."""

import time

import torch

from workers import numerics
from workers.models.alexnet import initialise
from workers.models.registry import build
from workers.protocol import Numerics
from workers.settings import TrainingSettings
from workers.training.evaluate import mean_loss
from workers.training.optimizer import build_optimizer

_MOST_IMAGES = 32
_LEAST_SECONDS = 0.3


def images_per_second(settings: TrainingSettings, num_classes: int, chosen: Numerics) -> float:
    """Times forward, backward and update on a batch of at most 32 images, after one step to warm up.

    The batch is smaller than in training, so that a full-size net is timed in seconds: an estimate, and a low one where
    other work shares the machine.
    """
    numerics.apply(chosen)
    generator = torch.Generator().manual_seed(0)
    model = build(settings.model, num_classes).to(memory_format=torch.channels_last)
    initialise(model, settings.init, generator)
    model.to(chosen.device)
    optimizer = build_optimizer(model, settings.optimizer, (), {})
    batch = min(settings.optimizer.batch_size, _MOST_IMAGES)
    side = settings.model.input_size
    images = torch.randn(batch, 3, side, side, generator=generator).contiguous(memory_format=torch.channels_last)
    images, labels = images.to(chosen.device), torch.zeros(batch, dtype=torch.int64, device=chosen.device)

    def step() -> None:
        with numerics.autocast(chosen):
            logits = model(images)
        loss = mean_loss(logits, labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss.item()

    step()
    since, steps = time.perf_counter(), 0
    while steps == 0 or time.perf_counter() - since < _LEAST_SECONDS:
        step()
        steps += 1
    return steps * batch / (time.perf_counter() - since)
