"""Shows what members are worth beside what they cost, and on what they disagree, as parts of the page and as JSON."""

from collections.abc import Iterator
from dataclasses import asdict
from math import isfinite
from typing import Any

from orchestrator.combine import Interval, in_units, loss_in_units
from orchestrator.config import Metric
from orchestrator.report.evidence import Evidence, Valued
from orchestrator.report.figures import lines_chart, pairs_chart
from orchestrator.report.sections import Section, Table
from orchestrator.text import counted

_HEADER = ("", "worth", "change without it", "core-seconds", "of all")


def number(evidence: Evidence) -> Section | None:
    """Shows how the loss falls with the number of members, and what each is worth; None if that is not known."""
    if (valued := evidence.worth) is None:
        return None
    worth = valued.worth
    curves = {"mean of orders": worth.mean_curve, "best order": worth.best_curve}
    points = {order: dict[float, float](enumerate(losses, 1)) for order, losses in curves.items()}
    label = "top-1 error" if worth.metric is Metric.top1 else f"loss by {worth.metric}"
    label += ", %" if "%" in loss_in_units(worth.metric, 0) else ""
    chart = lines_chart("number_of_members", "number of members", label, points, ())
    table = Table(_HEADER, tuple(_lines(valued)))
    return Section("number", "What each member is worth", (chart,), (table,), notes=worth_notes(valued))


def _lines(valued: Valued) -> Iterator[tuple[str, ...]]:
    """Yields a line for each member, the best first."""
    metric, costs = valued.worth.metric, valued.core_seconds
    known = [cost for cost in costs.values() if cost is not None]
    total = sum(known) if len(known) == len(costs) else 0.0
    for name, one in sorted(valued.worth.members.items(), key=lambda item: -item[1].shapley.estimate):
        cost = costs[name]
        said = "unknown" if cost is None else f"{cost:,.1f}"
        share = f"{100 * cost / total:.0f} %" if cost and total else ""
        yield name, in_units(metric, one.shapley), in_units(metric, one.without, "+"), said, share


def worth_notes(valued: Valued) -> tuple[str, ...]:
    """Returns what chart and table mean."""
    worth = valued.worth
    empty, loss = (loss_in_units(worth.metric, one) for one in (worth.empty, worth.loss))
    order = (
        f"{name} {loss_in_units(worth.metric, now)}" for name, now in zip(worth.order, worth.best_curve, strict=True)
    )
    notes = [
        f"Best order, which adds the member of the lowest loss each time, and that loss: {', '.join(order)}.",
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


def disagreement(evidence: Evidence) -> Section | None:
    """Shows on how many images each two members disagree, and how their errors correlate; None for one member."""
    if (main := evidence.main) is None or len(main.members) < 2:
        return None
    told = (
        f"Below the diagonal: the share of the {main.split} images on which two members disagree, in percent, "
        f"{100 * main.disagreement:.1f} % on average. Above it: how their errors correlate, 1 if on the same images."
    )
    names, files = list(main.members), {}
    for name, matrix in (("error_correlation", main.error_correlations), ("disagreement", main.disagreements)):
        rows = zip(names, matrix.tolist(), strict=True)
        files[name] = [("", *names), *((own, *row) for own, row in rows)]
    drawn = pairs_chart(names, 100 * main.disagreements, main.error_correlations, told)
    return Section("disagreement", "Where members disagree", (drawn,), csv=files)


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
