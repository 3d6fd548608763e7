"""Reading ahead changes neither what a slice holds nor where an error appears, and stays a few blocks ahead."""

import threading

import numpy as np
import pytest
from hypothesis import given, strategies as st

from orchestrator.combine.rows import Block, num_threads, read_ahead
from workers.errors import CheckFailed

NUM_ROWS = 24


class Recording:
    """Rows that note which slices were made, and fail from one row on."""

    def __init__(self, bad_row: int = NUM_ROWS) -> None:
        self.values = np.arange(NUM_ROWS * 3, dtype=np.float32).reshape(NUM_ROWS, 3)
        self.bad_row = bad_row
        self.made: list[int] = []
        self._lock = threading.Lock()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def __getitem__(self, rows: slice, /) -> Block:
        with self._lock:
            self.made.append(rows.start)
        if rows.stop > self.bad_row:
            raise CheckFailed(f"row {self.bad_row}")
        return self.values[rows]


bounds = st.tuples(st.integers(0, NUM_ROWS), st.integers(0, NUM_ROWS)).map(sorted)


@given(taken=st.lists(bounds, max_size=12))
def test_read_ahead_slices_in_any_order_are_those_of_the_rows(taken: list[list[int]]) -> None:
    rows = Recording()
    with read_ahead(rows) as ahead:
        assert ahead.shape == rows.shape
        for start, stop in taken:
            np.testing.assert_array_equal(ahead[start:stop], rows.values[start:stop])


@given(size=st.integers(1, NUM_ROWS), passes=st.integers(1, 3))
def test_read_ahead_rows_in_turn_are_made_once_a_pass(size: int, passes: int) -> None:
    rows = Recording()
    starts = list(range(0, NUM_ROWS, size))
    with read_ahead(rows) as ahead:
        for _ in range(passes):
            for start in starts:
                np.testing.assert_array_equal(ahead[start : start + size], rows.values[start : start + size])
    assert sorted(rows.made) == sorted(starts * passes)


def test_read_ahead_first_slice_taken_few_more_are_made() -> None:
    rows = Recording()
    with read_ahead(rows) as ahead:
        ahead[0:1]
    assert 1 <= len(rows.made) <= 1 + num_threads()


def test_read_ahead_error_comes_with_its_slice_not_before() -> None:
    with read_ahead(Recording(bad_row=4)) as ahead:
        np.testing.assert_array_equal(ahead[0:2], Recording().values[0:2])
        np.testing.assert_array_equal(ahead[2:4], Recording().values[2:4])
        with pytest.raises(CheckFailed, match="row 4"):
            ahead[4:6]
