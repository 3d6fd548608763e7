"""Divides training images into folds, as a function of contents, labels and groups alone.

Copies of an image are in one fold. Without groups, the images of each class go to the folds in turn, in the order of
their salted hashes, so a class's parts differ by one image at most (and copies).
"""

import hashlib

import numpy as np


def assign(
    contents: np.ndarray, labels: np.ndarray, k: int, repeat: int = 0, groups: np.ndarray | None = None
) -> np.ndarray:
    """Returns the fold of each image, [N] int16 in 0 … k − 1.

    Args:
        contents: [N, 32] uint8, the sha256 of each image's content.
        labels: [N] int64.
        k: the number of folds.
        repeat: the number of the division; each is another.
        groups: [N] int64; images of a group are in one fold. A copy in two groups joins them.
    """
    distinct, own = np.unique(np.ascontiguousarray(contents).view("V32").ravel(), return_inverse=True)
    keys = [hashlib.sha256(b"fold %d" % repeat + content.tobytes()).digest() for content in distinct]
    if groups is not None:
        return _of_groups(_joined(own, groups), own, keys, labels, k)
    # An image in two classes counts in the first.
    first = np.full(len(distinct), labels.max())
    np.minimum.at(first, own, labels)
    folds = np.empty(len(distinct), np.int16)
    folds[sorted(range(len(keys)), key=lambda index: (first[index], keys[index]))] = np.arange(len(keys)) % k
    return folds[own]


def _joined(own: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Returns each image's group, [N], after those with a content in common are joined."""
    # Imported here, since only groups need it.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    places = (own, own.max() + 1 + groups)
    size = int(places[1].max()) + 1
    joined = connected_components(coo_array((np.ones(len(own)), places), shape=(size, size)), directed=False)[1]
    return np.unique(joined[own], return_inverse=True)[1]


def _of_groups(groups: np.ndarray, own: np.ndarray, keys: list[bytes], labels: np.ndarray, k: int) -> np.ndarray:
    """Puts each group, the largest first, where the folds' parts of the classes stay most alike."""
    members = np.split(np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups))[:-1])
    totals, held, folds = np.bincount(labels), np.zeros((k, labels.max() + 1)), np.empty(len(labels), np.int16)
    for images in sorted(members, key=lambda images: (-len(images), min(keys[content] for content in own[images]))):
        classes, counts = np.unique(labels[images], return_counts=True)
        # The growth of the sum of squared shares; rounded, so that no CPU's order of addition decides.
        growth = ((2 * held[:, classes] + counts) * counts / totals[classes] ** 2).sum(axis=1).round(9)
        chosen = np.lexsort((held.sum(axis=1), growth))[0]
        held[chosen, classes] += counts
        folds[images] = chosen
    return folds
