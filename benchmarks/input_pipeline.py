"""A training batch from the prepared store, against decoding JPEG and transforming each image with torchvision.

The photographs are the two that scikit-learn bundles, cut into 256×256 patches.
"""

import io

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision import transforms

from benchmarks.compare import Comparison, compare
from workers.data.augment import PixelStatistics, crop, to_input
from workers.data.batches import IMAGENET_MEAN, IMAGENET_STD

BATCH, STORED, INPUT = 64, 256, 224


def _photographs(generator: np.random.Generator) -> np.ndarray:
    """Random 256×256 patches of the bundled photographs, [batch, 256, 256, 3] uint8."""
    sources = load_sample_images().images
    patches = []
    for index in range(BATCH):
        source = sources[index % len(sources)]
        top, left = (int(generator.integers(0, extent - STORED)) for extent in source.shape[:2])
        patches.append(source[top : top + STORED, left : left + STORED])
    return np.stack(patches)


def run() -> Comparison:
    """Compares the two from bytes to a normalised float32 batch of random, randomly reflected 224×224 crops."""
    generator = np.random.Generator(np.random.Philox(key=0))
    stored = _photographs(generator)
    files = []
    for pixels in stored:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    mean_std = PixelStatistics(torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD), torch.zeros(3, 3))
    transform = transforms.Compose(
        [
            transforms.RandomCrop(INPUT),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )

    def ours() -> torch.Tensor:
        offsets = generator.integers(0, STORED - INPUT + 1, size=(BATCH, 2))
        flips = generator.random(BATCH) < 0.5
        return to_input(crop(stored, offsets, flips, INPUT), mean_std, None)

    def peer() -> torch.Tensor:
        return torch.stack([transform(Image.open(io.BytesIO(data))) for data in files])

    assert ours().shape == peer().shape
    return compare(ours, peer)
