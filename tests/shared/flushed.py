"""Waits for what a tracker still has to send; a launch does so only as it closes."""

from orchestrator.tracking.tracker import CLOSE_S, Tracker


def flushed(tracker: Tracker, timeout_s: float = CLOSE_S) -> int:
    """Waits until all is in the store, at most `timeout_s`; returns how many metric values are not."""
    return tracker._sender.flush(timeout_s)
