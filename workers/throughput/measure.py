"""Times training steps on random pixels, for placement and `septet plan`."""

import time
import timeit
from collections.abc import Callable, Collection
from functools import cache

import numpy as np
import torch
from torch import Tensor

from workers import numerics
from workers.data.loading import Transforms
from workers.models import build, initialise, place
from workers.protocol import Numerics
from workers.settings import AugmentationSettings, TrainingSettings
from workers.training import build_optimizer, mean_loss

_MOST_IMAGES = 32
_LEAST_SECONDS = 0.3
_WARM_UP_SECONDS = 0.2
# torch.compile compiles in the first step; with CUDA graphs it records in the second, so the third is like all later.
_COMPILED_WARM_UP_STEPS = 3


class TimedSteps:
    """A net with fresh weights and one batch; a step is forward, backward and update, without reading or evaluating.

    On a CPU it also changes images as `augmentation` does; beside a GPU, threads do that.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        num_classes: int,
        chosen: Numerics,
        batch_size: int,
        freeze: Collection[str] = (),
    ) -> None:
        """Applies `chosen` to this process and warms up; the layers `freeze` stay as drawn."""
        numerics.apply(chosen)
        generator = torch.Generator().manual_seed(0)
        self._chosen, self._name = chosen, settings.model.name
        self._model = build(settings.model, num_classes).to(memory_format=torch.channels_last)
        initialise(self._model, settings.init, seed=0)
        place(self._model, chosen.device, chosen.convolutions)
        self._forward = numerics.compiled(self._model, chosen)
        self._optimizer = build_optimizer(self._model, settings.optimizer, freeze, {})
        side = settings.model.input_size
        images = torch.randn(batch_size, 3, side, side, generator=generator)
        self._images = images.contiguous(memory_format=torch.channels_last).to(chosen.device)
        self._labels = torch.zeros(batch_size, dtype=torch.int64, device=chosen.device)
        on_cpu = chosen.device == "cpu" and settings.augmentation.changes_images
        self._draw = _drawing(settings.augmentation, side, batch_size) if on_cpu else lambda: None
        for _ in range(0 if chosen.compile == "off" else _COMPILED_WARM_UP_STEPS):
            self._step()
        self.images_per_second(_WARM_UP_SECONDS)

    def images_per_second(self, seconds: float) -> float:
        """Makes steps for at least `seconds` (at least one step) and returns their rate."""
        since, steps = time.perf_counter(), 0
        while steps == 0 or time.perf_counter() - since < seconds:
            loss = self._step()
            steps += 1
        # A GPU may be behind; training does not wait for it at each step either.
        loss.item()
        return steps * len(self._labels) / (time.perf_counter() - since)

    def _step(self) -> Tensor:
        self._draw()
        with numerics.refusals(self._name):
            with numerics.autocast(self._chosen):
                outputs = self._forward(self._images)
            loss = mean_loss(outputs, self._labels)
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return loss.detach()


def _drawing(augmentation: AugmentationSettings, side: int, batch_size: int) -> Callable[[], None]:
    """Returns what changes a batch of random pixels as `augmentation` does."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (batch_size, side, side, 3), dtype=np.uint8)
    fill = Transforms(augmentation, side, torch.full((3,), 0.5)).fill
    crops, chosen, offsets = np.empty_like(images), np.arange(batch_size), np.zeros((batch_size, 2), np.int64)
    return lambda: fill(crops, images, chosen, offsets, generator.integers(2**32, size=batch_size))


@cache
def drawing_seconds(augmentation: AugmentationSettings, side: int) -> float:
    """Returns the seconds that one CPU takes to change an image of `side` pixels; 0 if `augmentation` changes none."""
    if not augmentation.changes_images:
        return 0.0
    draw = _drawing(augmentation, side, _MOST_IMAGES)
    number, seconds = timeit.Timer(draw, draw).autorange()
    return seconds / (number * _MOST_IMAGES)


def images_per_second(
    settings: TrainingSettings, num_classes: int, chosen: Numerics, freeze: Collection[str] = ()
) -> float:
    """Returns the rate of one member alone, with the layers `freeze` frozen, on a batch of at most 32 images.

    The batch is smaller than in training, so that a full-size net is timed in seconds. Other work on the machine lowers
    the estimate.
    """
    batch_size = min(settings.optimizer.most_at_once, _MOST_IMAGES)
    return TimedSteps(settings, num_classes, chosen, batch_size, freeze).images_per_second(_LEAST_SECONDS)


def gpu_precision() -> str:
    """Returns the half precision that the GPU multiplies in hardware, bf16 before fp16; fp32 if it has neither."""
    if not torch.cuda.is_available():
        return "fp32"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16"
    # Volta is the first with fast products of float16.
    return "fp16" if torch.cuda.get_device_capability() >= (7, 0) else "fp32"
