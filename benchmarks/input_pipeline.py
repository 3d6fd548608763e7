"""Times a training batch from the prepared store, against decoding and transforming each JPEG with torchvision.

The photographs are the two that scikit-learn bundles, cut into 256×256 patches.
"""

import io

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision import transforms

from benchmarks.numerics import fastest
from benchmarks.row import Measure, Row, Settings, Spread
from benchmarks.turns import Turns, ratios, take_turns
from workers import numerics
from workers.data.loading import IMAGENET_MEAN, IMAGENET_STD, PixelStatistics, Windows, crop, to_input

_BATCH, _STORED, _INPUT = 64, 256, 224


def _photographs(generator: np.random.Generator) -> np.ndarray:
    """Returns random 256×256 patches of the bundled photographs, [batch, 256, 256, 3] uint8."""
    sources = load_sample_images().images
    patches = []
    for index in range(_BATCH):
        source = sources[index % len(sources)]
        top, left = (int(generator.integers(0, extent - _STORED)) for extent in source.shape[:2])
        patches.append(source[top : top + _STORED, left : left + _STORED])
    return np.stack(patches)


def _ours(turns: Turns) -> None:
    numerics.apply(fastest(threads=1))
    generator = np.random.Generator(np.random.Philox(key=0))
    stored = _photographs(generator)
    statistics = PixelStatistics(torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD), torch.zeros(3, 3))
    # As a stage has it: both are used again for every batch.
    buffer = np.empty((_BATCH, _INPUT, _INPUT, 3), np.uint8)
    place = torch.empty(buffer.size)

    def batch() -> torch.Tensor:
        offsets = generator.integers(0, _STORED - _INPUT + 1, size=(_BATCH, 2))
        flips = generator.random(_BATCH) < 0.5
        windows = Windows(offsets, torch.from_numpy(flips))
        pixels = torch.from_numpy(crop(stored, np.arange(len(stored)), offsets, _INPUT, buffer))
        return to_input(pixels, statistics, None, windows, place)

    turns.play(batch)


def _peer(turns: Turns) -> None:
    torch.set_num_threads(1)
    files = []
    for pixels in _photographs(np.random.Generator(np.random.Philox(key=0))):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    transform = transforms.Compose(
        [
            transforms.RandomCrop(_INPUT),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    turns.play(lambda: torch.stack([transform(Image.open(io.BytesIO(data))) for data in files]))


def run(settings: Settings) -> Row:
    """Measures bytes to a normalised float32 batch of random, randomly reflected 224×224 crops, one thread."""
    readings = take_turns({"ours": _ours, "peer": _peer}, settings.repeats)
    speed = {side: _BATCH / Spread.of(seconds).median for side, seconds in readings.items()}
    return Row(
        name="training crops from the prepared store beside PIL and torchvision",
        unit="images/s",
        ours=speed["ours"],
        peer=speed["peer"],
        limit=None,
        ratio=Spread.of(ratios(readings, "peer", "ours")),
        measure=Measure.times,
        wanted=None,
        repeats=settings.repeats,
        note=f"{_INPUT} px of {_STORED} px, 1 thread",
    )
