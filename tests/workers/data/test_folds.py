"""Properties of the division of training images into folds."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from workers.data.folds import assign

# Contents by number; several images may have one, also of two classes.
images = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3), st.integers(0, 12)), min_size=10, max_size=80)


def drawn(rows):
    contents = [hashlib.sha256(str(number).encode()).digest() for number, _, _ in rows]
    columns = np.array(rows)
    return np.frombuffer(b"".join(contents), np.uint8).reshape(-1, 32), columns[:, 1], columns[:, 2]


def different(count, num_classes):
    """So many different images, of classes in turn."""
    return drawn([(number, number % num_classes, number // 4) for number in range(count)])


def partners(folds, names):
    """The pairs of images that share a name and not a fold."""
    return [(one, other) for one in range(len(names)) for other in range(one) if names[one] == names[other]
            and folds[one] != folds[other]]  # fmt: skip


@pytest.mark.parametrize(("count", "num_classes", "k"), [(100, 4, 5), (103, 7, 3), (37, 2, 10)])
def test_folds_of_different_images_are_equal_in_size_and_in_each_class(count, num_classes, k):
    contents, labels, _ = different(count, num_classes)
    folds = assign(contents, labels, k)
    assert np.ptp(np.bincount(folds, minlength=k)) <= 1
    for label in range(num_classes):
        assert np.ptp(np.bincount(folds[labels == label], minlength=k)) <= 1


def test_folds_of_an_image_do_not_depend_on_the_order_and_differ_between_repeats():
    contents, labels, groups = different(60, 3)
    order = np.random.default_rng(1).permutation(60)
    for own in (None, groups):
        folds = assign(contents, labels, 4, 0, own)
        turned = assign(contents[order], labels[order], 4, 0, None if own is None else own[order])
        np.testing.assert_array_equal(turned, folds[order])
        assert (assign(contents, labels, 4, 1, own) != folds).any()


@settings(deadline=None, max_examples=40)
@given(images, st.integers(2, 5))
def test_copies_of_an_image_are_in_one_fold(rows, k):
    contents, labels, _ = drawn(rows)
    assert not partners(assign(contents, labels, k), [number for number, _, _ in rows])


@settings(deadline=None, max_examples=40)
@given(images, st.integers(2, 5))
def test_groups_stay_together_and_so_do_copies_in_two_groups(rows, k):
    contents, labels, groups = drawn(rows)
    folds = assign(contents, labels, k, 0, groups)
    assert not partners(folds, groups.tolist())
    assert not partners(folds, [number for number, _, _ in rows])
    assert set(folds.tolist()) <= set(range(k))


def test_folds_of_groups_are_stratified():
    """A hundred patients, each with four images of one class: every fold has a fifth of each class."""
    rows = [(number, number // 4 % 2, number // 4) for number in range(400)]
    contents, labels, groups = drawn(rows)
    folds = assign(contents, labels, 5, 0, groups)
    for label in (0, 1):
        assert np.bincount(folds[labels == label]).tolist() == [40] * 5
