"""Properties of the choice of held-out images."""

import hashlib

from hypothesis import given, settings, strategies as st

from workers.data.held_out import hold_out, lowest, num_held_out

contents = st.integers(0, 60).map(lambda number: hashlib.sha256(str(number).encode()).digest())
classes = st.lists(st.lists(contents, max_size=30), max_size=4)
fractions = st.floats(0.01, 0.9)


@settings(deadline=None)
@given(classes, fractions, fractions)
def test_held_out_sets_never_overlap(groups, val, dev):
    held_out = hold_out(groups, val, dev)
    assert not held_out.val & held_out.dev


@settings(deadline=None)
@given(classes, fractions, fractions)
def test_order_and_copies_of_images_change_nothing(groups, val, dev):
    turned = [group[::-1] + group for group in reversed(groups)]
    assert hold_out(turned, val, dev) == hold_out(groups, val, dev)


@settings(deadline=None)
@given(classes, st.lists(contents, max_size=30), fractions, fractions)
def test_more_classes_free_no_held_out_image(groups, more, val, dev):
    target, superset = hold_out(groups, val, dev), hold_out([*groups, more], val, dev)
    assert target.val <= superset.val
    assert target.dev <= superset.val | superset.dev


@settings(deadline=None)
@given(st.sets(contents, min_size=2), fractions, fractions)
def test_every_class_keeps_a_training_image(group, val, dev):
    held_out = hold_out([list(group)], val, dev)
    assert held_out.val
    assert group - held_out.val - held_out.dev


@settings(deadline=None)
@given(st.floats(0, 0.99), st.integers(0, 500))
def test_number_held_out_is_the_share_but_never_all(fraction, num_images):
    held = num_held_out(fraction, num_images)
    assert 0 <= held <= max(0, num_images - 1)
    if fraction == 0:
        assert held == 0
    elif num_images > 1 and 1 <= fraction * num_images <= num_images - 1:
        assert abs(held - fraction * num_images) <= 0.5


def test_salts_choose_independently():
    group = [hashlib.sha256(str(number).encode()).digest() for number in range(1000)]
    both = lowest(group, 0.5, b"val") & lowest(group, 0.5, b"dev")
    assert 200 < len(both) < 300
