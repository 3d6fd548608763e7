"""Shows what each member is worth, beside what it cost; as JSON, tables and notes. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from orchestrator.combine import Interval, in_units, loss_in_units
from orchestrator.config import Metric
from orchestrator.fitting import Worth
from orchestrator.report.table import Line, markdown_table
from orchestrator.text import counted

TITLE = "What each member is worth"
_HEADER: Line = ("", "worth", "change without it", "core-seconds", "of all")
_CURVE: Line = ("members", "added", "loss, best order", "mean of orders")


@dataclass(frozen=True)
class Valued:
    """What members are worth on the `num_images` of a split, and what each cost; None if that is unknown."""

    split: str
    num_images: int
    worth: Worth
    core_seconds: Mapping[str, float | None]


def worth_json(valued: Valued) -> dict[str, Any]:
    """Returns what scores.json says; intervals without bounds are an estimate alone."""
    worth = valued.worth
    kept = ("metric", "num_images", "num_orders", "sampling_error", "empty", "loss")
    curve = zip(worth.order, worth.best_curve, worth.mean_curve, strict=True)
    return {
        **{name: getattr(worth, name) for name in kept},
        "members": {
            name: {"shapley": _bounded(one.shapley), "without": _bounded(one.without)}
            for name, one in worth.members.items()
        },
        "core_seconds": dict(valued.core_seconds),
        "curve": [{"added": name, "best": best, "mean": mean} for name, best, mean in curve],
    }


def metric_told(scores: Any) -> Metric | None:
    """Returns by which metric `scores`, the content of a scores.json, tells what members are worth."""
    worth = scores.get("worth") if isinstance(scores, dict) else None
    said = worth.get("metric") if isinstance(worth, dict) else None
    return Metric(said) if said in list(Metric) else None


def _bounded(one: Interval) -> dict[str, float]:
    return {name: value for name, value in asdict(one).items() if isfinite(value)}


def worth_tables(valued: Valued) -> tuple[tuple[Line, Sequence[Line]], ...]:
    """Returns the header and the lines of two tables: the members, best first, and the curve."""
    worth, costs = valued.worth, valued.core_seconds
    known = [cost for cost in costs.values() if cost is not None]
    total = sum(known) if len(known) == len(costs) else 0.0
    lines = []
    for name, one in sorted(worth.members.items(), key=lambda item: -item[1].shapley.estimate):
        cost = costs[name]
        shares = (
            "unknown" if cost is None else f"{cost:,.1f}",
            f"{100 * cost / total:.0f} %" if cost and total else "",
        )
        lines.append((name, in_units(worth.metric, one.shapley), in_units(worth.metric, one.without, "+"), *shares))
    curve = [
        (str(number), name, *(loss_in_units(worth.metric, loss) for loss in losses))
        for number, (name, *losses) in enumerate(zip(worth.order, worth.best_curve, worth.mean_curve, strict=True), 1)
    ]
    return (_HEADER, lines), (_CURVE, curve)


def worth_notes(valued: Valued) -> tuple[str, ...]:
    """Returns what the tables mean."""
    worth = valued.worth
    empty, loss = (loss_in_units(worth.metric, one) for one in (worth.empty, worth.loss))
    notes = [
        f"Loss by {worth.metric} of the plain mean of some members, on {valued.split}.",
        "Worth: by how much a member lowers it, on average over all orders in which members can join (Shapley).",
        f"All worths add up to the way from uniform probabilities, {empty}, to all members, {loss}.",
        "Core-seconds: time of all attempts × threads of a member; members share what they start from equally.",
    ]
    if worth.num_orders:
        error = in_units(worth.metric, Interval(worth.sampling_error, float("-inf"), float("inf")))
        notes.append(f"{worth.num_orders} orders were drawn; the standard error from that is {error} at most.")
    if worth.num_images < valued.num_images:
        notes.append(f"On {worth.num_images:,} evenly spaced ones of {counted(valued.num_images, 'image')}.")
    if not all(isfinite(one.without.low) for one in worth.members.values()):
        notes.append(f"{worth.metric} is no mean over images, so there are no intervals.")
    return tuple(notes)


def drop_note(valued: Valued) -> str:
    """Returns a line on the member without which the mean is better beyond its interval; "" if there is none."""
    worth = valued.worth
    name, one = min(worth.members.items(), key=lambda item: item[1].without.estimate)
    if one.without.high >= 0:
        return ""
    gain = in_units(worth.metric, Interval(-one.without.estimate, -one.without.high, -one.without.low))
    return (
        f"DROP: without {name} the mean of the others is better by {gain} in {worth.metric} on {valued.split}; "
        f"combine.without=[{name}] leaves it out. Chosen on these images, so new ones will show less."
    )


def worth_markdown(valued: Valued) -> str:
    """Returns the tables in Markdown, ending in a newline."""
    tables = [line for header, lines in worth_tables(valued) for line in (*markdown_table(header, lines), "")]
    return "\n".join([f"## {TITLE}", "", *tables, *(f"- {note}" for note in worth_notes(valued))]) + "\n"
