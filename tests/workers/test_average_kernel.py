"""The compiled weighted sum gives NumPy's bits."""

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from workers.kernels import average

needs_kernel = pytest.mark.skipif(not average.is_built(), reason="built where a C compiler is at hand")
shares = st.floats(-2, 2)


@needs_kernel
@given(data=st.data(), num_members=st.integers(1, 9), num_items=st.integers(0, 150))
def test_weighted_sum_any_float32_same_bits_as_numpy(data: st.DataObject, num_members: int, num_items: int) -> None:
    # Zeros of both signs, subnormals, infinities and all tails of the vectors.
    values = data.draw(arrays.arrays(np.float32, (num_members, num_items), elements=st.floats(width=32)))
    weights = data.draw(st.lists(shares, min_size=num_members, max_size=num_members))
    compiled, plain = np.full((2, num_items), 7, np.float32)
    with np.errstate(all="ignore"):
        average.weighted_sum(list(values), weights, compiled)
        average.in_numpy(list(values), weights, plain)
    np.testing.assert_array_equal(np.isnan(compiled), np.isnan(plain))
    number = ~np.isnan(plain)
    np.testing.assert_array_equal(compiled[number].view(np.uint32), plain[number].view(np.uint32))


@pytest.mark.parametrize("change", [lambda array: array[:, ::2], lambda array: array[:, ::2].astype(np.float64)])
def test_weighted_sum_arrays_that_are_not_plain_are_summed_too(change: object) -> None:
    assert callable(change)
    members = [change(member) for member in np.random.default_rng(0).random((3, 5, 8), np.float32)]
    output = np.empty((5, 4), np.float32)
    average.weighted_sum(members, [0.5, 0.25, 0.25], output)
    np.testing.assert_allclose(output, 0.5 * members[0] + 0.25 * members[1] + 0.25 * members[2], rtol=1e-6)


@needs_kernel
def test_weighted_sum_plain_arrays_use_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(average, "in_numpy")
    output = np.empty((2, 40), np.float32)
    average.weighted_sum([np.ones((2, 40), np.float32)] * 4, [0.25] * 4, output)
    np.testing.assert_array_equal(output, 1)


@needs_kernel
def test_weighted_sum_product_is_rounded_before_it_is_added() -> None:
    # A fused multiply-add keeps the product's rounding error, which is all that is left here.
    member = np.random.default_rng(0).random((1, 45), np.float32)
    output = np.ones_like(member)
    average.weighted_sum([member, member], [-0.1, 0.1], output)
    np.testing.assert_array_equal(output, 0)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_kernel_is_built_where_there_is_a_compiler() -> None:
    assert average.is_built()
