"""Statistics of the training images: by channel, by position, and the principal components of their colour."""

import os
from dataclasses import dataclass
from functools import partial

import numpy as np

from workers.data.store.pixels import Pixels
from workers.threads import map_in_order

# More images would change only the fourth digit of a mean, and a pass over all of ImageNet takes minutes.
MOST_IMAGES = 20_000
# Fits the L2 cache as float64.
_CHUNK_PIXELS = 1 << 15


@dataclass(frozen=True)
class ColourStatistics:
    """Statistics of colour on the [0, 1] scale of pixels.

    Attributes:
        mean: of each channel.
        std: of each channel, at least one grey level, to be a safe divisor.
        eigenvalues: of the RGB covariance, largest first, none negative.
        eigenvectors: 3 rows; each column is the eigenvector of the eigenvalue at its index, its largest part positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    eigenvalues: tuple[float, ...]
    eigenvectors: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, eq=False)
class ImageStatistics:
    """Statistics of colour, and [S, S, 3] float32, the mean of each position and channel on the scale 0…255."""

    colour: ColourStatistics
    mean_image: np.ndarray


def image_statistics(images: np.ndarray | Pixels) -> ImageStatistics:
    """Computes statistics of [N, S, S, 3] uint8, N ≥ 1, in one pass, over at most MOST_IMAGES evenly spaced images."""
    chosen = range(0, len(images), -(-len(images) // MOST_IMAGES))
    num_threads = min(len(os.sched_getaffinity(0)), len(chosen))
    shares = [
        chosen[len(chosen) * at // num_threads : len(chosen) * (at + 1) // num_threads] for at in range(num_threads)
    ]
    # Sums of integers below 2**53 are exact in float64 in any order, so the bits do not depend on machine or threads.
    total = np.zeros(images.shape[1:], np.uint32)
    products = np.zeros((3, 3))
    for levels, pairs in map_in_order(partial(_sums, images), shares):
        total += levels
        products += pairs
    num_pixels = len(chosen) * images.shape[1] * images.shape[2]
    mean = total.sum(axis=(0, 1), dtype=np.uint64) / num_pixels
    return ImageStatistics(_colour(mean, products, num_pixels), (total / len(chosen)).astype(np.float32))


def _sums(images: np.ndarray | Pixels, chosen: range) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sum of each position and channel, [S, S, 3] uint32, and that of `_products`, over some images."""
    step = max(1, _CHUNK_PIXELS // (images.shape[1] * images.shape[2]))
    total = np.zeros(images.shape[1:], np.uint32)
    products = np.zeros((3, 3))
    for start in range(0, len(chosen), step):
        part = chosen[start : start + step]
        block = images[part.start : part.stop : part.step]
        total += block.sum(axis=0, dtype=np.uint32)
        products += _products(block)
    return total, products


def _products(block: np.ndarray) -> np.ndarray:
    """Sums each product of two channels over all pixels of [N, S, S, 3] uint8: [3, 3] float64.

    Rows are four pixels, because a matrix product with three columns takes three times as long as one with twelve. The
    diagonal of the latter has four blocks of these sums.
    """
    together = 4 if block.size % 12 == 0 else 1
    pixels = block.reshape(-1, 3 * together).astype(np.float64)
    # np.dot releases the interpreter lock; the operator @ does not.
    products = np.dot(pixels.T, pixels)
    return np.asarray(sum(products[place : place + 3, place : place + 3] for place in range(0, 3 * together, 3)))


def _colour(mean: np.ndarray, products: np.ndarray, num_pixels: int) -> ColourStatistics:
    covariance = (products / num_pixels - np.outer(mean, mean)) / 255**2
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.sign(vectors[largest, range(3)])
    return ColourStatistics(
        mean=tuple((mean / 255).tolist()),
        std=tuple(np.sqrt(covariance.diagonal().clip(min=255**-2)).tolist()),
        eigenvalues=tuple(values.tolist()),
        eigenvectors=tuple(tuple(row) for row in vectors.tolist()),
    )
