"""Makes the page that is pasted into an issue: plain text, one block a check."""

from collections import Counter
from collections.abc import Sequence

from benchmarks.gpu_check.checks import Outcome, Result

_WIDTH = 118
_MOST_LINES = 60


def page(results: Sequence[Result], device: str, seconds: float, commit: str) -> str:
    """Returns the page; at most 60 lines, so a long check's last lines are only in the JSON."""
    counts = Counter(result.outcome for result in results)
    said = ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome])
    head = [f"Septet GPU check, {commit}, on {device}: {said}, {seconds:.0f} s", ""]
    # A block's first line is its outcome; the rest share what is left of the page.
    most = max(1, (_MOST_LINES - len(head)) // max(1, len(results)) - 1)
    if device == "cuda":
        most = max(most, 4)
    return "\n".join(head + [line for result in results for line in _block(result, most)])


def _block(result: Result, most: int) -> list[str]:
    reason = f": {result.reason}" if result.reason else ""
    lines = [f"{result.outcome:<8}{result.name} ({result.seconds:.0f} s){reason}"]
    others = [line for line in result.lines if line != result.reason]
    shown = others if len(others) <= most else [*others[: most - 1], f"… {len(others) - most + 1} more in the JSON"]
    return [line[:_WIDTH] for line in (*lines, *(f"        {line}" for line in shown))]
