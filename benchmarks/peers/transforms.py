"""Loads photographs without a prepared store: PIL decodes, torchvision or PIL transforms."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from benchmarks.turns import Turns


def reference_crop(size: int) -> Callable[[Path], np.ndarray]:
    """Returns torchvision's reference transform for training, up to uint8 pixels."""
    transform = transforms.Compose([transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()])

    def crop(path: Path) -> np.ndarray:
        with Image.open(path) as image:
            return np.asarray(transform(image.convert("RGB")))

    return crop


def training_crops(paths: Sequence[Path], size: int, turns: Turns) -> None:
    """Times a pass over the photographs, one by one, on one thread."""
    torch.set_num_threads(1)
    crop = reference_crop(size)
    turns.play(lambda: [crop(path) for path in paths])


def resize_and_crop(path: Path, side: int, resample: Image.Resampling) -> np.ndarray:
    """Returns the image with its shorter side scaled to `side`, cropped to the centre."""
    with Image.open(path) as image:
        scale = side / min(image.size)
        width, height = (round(extent * scale) for extent in image.size)
        scaled = image.convert("RGB").resize((width, height), resample)
    left, top = (width - side) // 2, (height - side) // 2
    return np.asarray(scaled.crop((left, top, left + side, top + side)))


def resized_and_cropped(
    paths: Sequence[Path], side: int, resample: Image.Resampling, saved: Path, turns: Turns
) -> None:
    """Times writing all photographs into one npy file, in seconds of CPU."""

    def all_of_them() -> None:
        np.save(saved, np.stack([resize_and_crop(path, side, resample) for path in paths]))

    turns.play(all_of_them, time.process_time)
