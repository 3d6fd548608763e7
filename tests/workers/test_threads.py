"""Calls in threads keep their order, and nothing waits for them once the caller has stopped."""

import threading

import pytest

from workers.threads import map_in_order


def test_map_in_order_keeps_the_order_of_the_items():
    assert list(map_in_order(lambda item: item * item, range(100), 3)) == [item * item for item in range(100)]


def test_map_in_order_raises_the_error_of_the_first_item_that_fails():
    with pytest.raises(ZeroDivisionError):
        list(map_in_order(lambda item: 1 // (item - 7), range(20), 2))


def test_map_in_order_closed_early_does_not_wait_for_calls_that_have_begun():
    """The garbage collector closes it too, in a thread that may hold the lock which waiting for another needs."""
    gate, began = threading.Event(), threading.Event()

    def hold(item):
        if item:
            began.set()
            gate.wait(60)
        return item

    results = map_in_order(hold, range(100), 2)
    try:
        assert next(results) == 0
        assert began.wait(60)
        closing = threading.Thread(target=results.close)
        closing.start()
        closing.join(30)
        assert not closing.is_alive()
    finally:
        gate.set()
