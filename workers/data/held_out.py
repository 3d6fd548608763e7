"""Selects the images to hold out: in each class, those with the lowest salted content hash.

Each class is split by its own images only, so two datasets with the same class hold out the same images.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class HeldOut:
    """Contents (sha256, 32 bytes) that are not trained on; the two sets never overlap."""

    val: frozenset[bytes]
    dev: frozenset[bytes]

    def split_of(self, content: bytes) -> str:
        """Returns the split of an image of train: val, dev or train."""
        return "val" if content in self.val else "dev" if content in self.dev else "train"


def num_held_out(fraction: float, num_images: int) -> int:
    """Returns how many images of a class are held out: the rounded share, at least one, never all of them."""
    if fraction == 0:
        return 0
    return min(max(1, round(fraction * num_images)), max(0, num_images - 1))


def lowest(contents: Iterable[bytes], fraction: float, salt: bytes) -> frozenset[bytes]:
    """Returns the share of distinct contents with the lowest sha256(salt + content); copies of an image count once."""
    distinct = sorted(set(contents), key=lambda content: hashlib.sha256(salt + content).digest())
    return frozenset(distinct[: num_held_out(fraction, len(distinct))])


def hold_out(classes: Iterable[Sequence[bytes]], val_fraction: float, dev_fraction: float) -> HeldOut:
    """Holds out val, then dev from the rest, class by class.

    An image in two classes is held out of both if either holds it out. This never changes the choice of other images in
    the second class.
    """
    val: set[bytes] = set()
    dev: set[bytes] = set()
    for contents in classes:
        own_val = lowest(contents, val_fraction, b"val")
        val |= own_val
        dev |= lowest(set(contents) - own_val, dev_fraction, b"dev")
    return HeldOut(frozenset(val), frozenset(dev - val))
