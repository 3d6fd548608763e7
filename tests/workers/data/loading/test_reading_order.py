"""The order of an epoch: whole, or by windows for a store larger than memory; and what is read ahead of it."""

import numpy as np
from hypothesis import given, strategies as st

from workers.data.loading import draw_epoch
from workers.data.loading.augment import PIECES
from workers.data.loading.batches import ReadAhead
from workers.data.store import Pixels
from workers.settings import AugmentationSettings


def order(num_images: int, window: int, seed: int = 1, epoch: int = 0) -> np.ndarray:
    return draw_epoch(seed, epoch, num_images, 4, AugmentationSettings(shuffle_window=window)).order


def test_whole_order_is_what_it_always_was():
    """Golden: another order would be other weights for every run there is."""
    draws = draw_epoch(7, 3, 10, 5, AugmentationSettings())
    assert draws.order.tolist() == [0, 9, 3, 6, 5, 1, 8, 7, 4, 2]
    assert draws.offsets.ravel().tolist() == [1, 1, 0, 4, 1, 2, 0, 3, 5, 2, 2, 3, 1, 0, 3, 2, 4, 3, 2, 2]


@given(st.integers(1, 3000), st.integers(0, 3000), st.integers(0, 5))
def test_every_image_comes_once_an_epoch_whatever_the_window(num_images, window, epoch):
    assert sorted(order(num_images, window, epoch=epoch).tolist()) == list(range(num_images))


@given(st.integers(200, 5000), st.integers(PIECES, 1000))
def test_window_holds_few_pieces_of_neighbours(num_images, window):
    """That is what makes reading from a disk cheap: the images of a window lie in few places."""
    if window >= num_images:
        return
    drawn, piece = order(num_images, window), window // PIECES
    for start in range(0, num_images, piece * PIECES):
        held = np.sort(drawn[start : start + piece * PIECES])
        assert np.count_nonzero(np.diff(held) > 1) <= PIECES


def test_window_mixes_images_and_pieces_come_from_everywhere():
    drawn = order(100_000, 6400)
    first = drawn[:6400]
    assert np.count_nonzero(np.diff(first) == 1) < 0.05 * len(first)
    # Of a store sorted by class, each tenth has its share in the window, or nearly.
    shares = np.bincount(first // 10_000, minlength=10) / len(first)
    assert shares.min() > 0.02


class _Asked(Pixels):
    """Notes what it is asked to read."""

    def __init__(self) -> None:
        super().__init__((), 8)
        self.pieces: list[tuple[int, int]] = []

    def will_need(self, start: int, stop: int) -> None:
        self.pieces.append((start, stop))

    def images(self) -> list[int]:
        return [index for start, stop in self.pieces for index in range(start, stop)]


def test_images_are_asked_for_once_and_before_they_are_due():
    num_images, batch, piece = 3000, 32, 5
    pixels, drawn = _Asked(), order(num_images, piece * PIECES)
    ahead = ReadAhead(pixels, piece * PIECES, least_bytes=0)
    for position in range(0, num_images, batch):
        ahead.to(drawn, position)
        assert set(drawn[position : position + batch + piece * PIECES].tolist()) <= set(pixels.images())
    assert sorted(pixels.images()) == list(range(num_images))
    # Piece by piece, not image by image; a few lie across two windows.
    assert len(pixels.pieces) <= num_images / piece + num_images / (piece * PIECES) + 1


def test_epoch_gone_on_with_asks_for_what_is_left_of_it():
    pixels, drawn = _Asked(), order(1000, 0)
    ahead = ReadAhead(pixels, 100, least_bytes=0)
    for position in range(700, 1000, 100):
        ahead.to(drawn, position)
    assert sorted(pixels.images()) == sorted(drawn[700:].tolist())


def test_small_store_is_not_asked_for():
    pixels = _Asked()
    ReadAhead(pixels, 10, least_bytes=1).to(order(100, 0), 0)
    assert not pixels.pieces
