"""Which images are held out: inside each class, those whose salted content hash is lowest.

A class is dealt out by its own images alone, so two datasets that hold the same class hold out the same images.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class HeldOut:
    """Contents (sha256, 32 bytes) kept from training; the two never overlap."""

    val: frozenset[bytes]
    dev: frozenset[bytes]


def num_held_out(fraction: float, num_images: int) -> int:
    """How many of a class's images are held out: the rounded share, at least one, and never the last image."""
    if fraction == 0:
        return 0
    return min(max(1, round(fraction * num_images)), max(0, num_images - 1))


def lowest(contents: Iterable[bytes], fraction: float, salt: bytes) -> frozenset[bytes]:
    """The share of distinct contents whose sha256(salt + content) is lowest; copies of an image count once."""
    distinct = sorted(set(contents), key=lambda content: hashlib.sha256(salt + content).digest())
    return frozenset(distinct[: num_held_out(fraction, len(distinct))])


def hold_out(classes: Iterable[Sequence[bytes]], val_fraction: float, dev_fraction: float) -> HeldOut:
    """Holds out val, then dev from what remains, class by class.

    An image that stands in two classes is held out of both if either holds it out. Each class's own choice is made
    before that, so that another class never changes it.
    """
    val: set[bytes] = set()
    dev: set[bytes] = set()
    for contents in classes:
        own_val = lowest(contents, val_fraction, b"val")
        val |= own_val
        dev |= lowest(set(contents) - own_val, dev_fraction, b"dev")
    return HeldOut(frozenset(val), frozenset(dev - val))
