"""The compiled weighted sum gives NumPy's bits."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
from hypothesis import given, strategies as st
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


@contextmanager
def written(members: Sequence[np.ndarray], before: Sequence[int]) -> Iterator[list[tuple[int, int]]]:
    """Each member in a file of its own, so many bytes before it: descriptor and offset."""
    with ExitStack() as stack:
        files = []
        for member, offset_bytes in zip(members, before, strict=True):
            file = stack.enter_context(tempfile.TemporaryFile())
            file.write(b"\x01" * offset_bytes + member.astype("<f4").tobytes())
            file.flush()
            files.append((file.fileno(), offset_bytes))
        yield files


@needs_kernel
@given(data=st.data(), num_members=st.integers(1, 9), num_items=st.integers(0, 300), room_items=st.integers(9, 900))
def test_weighted_sum_of_files_any_room_same_bits_as_in_memory(
    data: st.DataObject, num_members: int, num_items: int, room_items: int
) -> None:
    members = np.random.default_rng(num_items).random((num_members, num_items), np.float32)
    weights = data.draw(st.lists(shares, min_size=num_members, max_size=num_members))
    before = data.draw(st.lists(st.integers(0, 200), min_size=num_members, max_size=num_members))
    of_files, of_memory = np.full((2, num_items), 7, np.float32)
    with written(members, before) as files:
        assert average.weighted_sum_of_files(files, weights, np.empty(room_items, np.float32), of_files)
    average.in_numpy(list(members), weights, of_memory)
    np.testing.assert_array_equal(of_files.view(np.uint32), of_memory.view(np.uint32))


@needs_kernel
def test_weighted_sum_of_files_that_cannot_be_read_whole_says_so() -> None:
    members = np.ones((3, 1000), np.float32)
    room, output = np.empty(600, np.float32), np.empty(1000, np.float32)
    weights = [0.5, 0.25, 0.25]
    with written(members, [0, 8, 128]) as files:
        assert average.weighted_sum_of_files(files, weights, room, output)
        os.ftruncate(files[1][0], 8 + 4 * 1000 - 1)
        assert not average.weighted_sum_of_files(files, weights, room, output)
    assert not average.weighted_sum_of_files([(-1, 0)] * 3, weights, room, output)


@needs_kernel
def test_weighted_sum_of_files_without_room_for_each_says_so() -> None:
    members = np.ones((3, 10), np.float32)
    with written(members, [0, 0, 0]) as files:
        output = np.empty(10, np.float32)
        assert not average.weighted_sum_of_files(files, [1, 1, 1], np.empty(2, np.float32), output)
        assert not average.weighted_sum_of_files([], [], np.empty(2, np.float32), output)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_kernel_is_built_where_there_is_a_compiler() -> None:
    assert average.is_built()
