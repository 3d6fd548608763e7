"""Shows what members are to each other, as parts of the page."""

from orchestrator.combine import loss_in_units
from orchestrator.report.evidence import Evidence
from orchestrator.report.figures import lines_chart, pairs_chart
from orchestrator.report.sections import Section, Table
from orchestrator.report.worth import TITLE, worth_notes, worth_tables


def number(evidence: Evidence) -> Section | None:
    """Shows how the loss falls with the number of members, and what each is worth; None if that is not known."""
    if (valued := evidence.worth) is None:
        return None
    worth, ((header, lines), _) = valued.worth, worth_tables(valued)
    curves = {"mean of orders": worth.mean_curve, "best order": worth.best_curve}
    points = {order: dict[float, float](enumerate(losses, 1)) for order, losses in curves.items()}
    label = f"loss by {worth.metric}{', %' if '%' in loss_in_units(worth.metric, 0) else ''}"
    chart = lines_chart("number_of_members", "number of members", label, points, ())
    notes = (f"Best order, which adds the member of the lowest loss each time: {', '.join(worth.order)}.",)
    return Section("number", TITLE, (chart,), (Table(header, tuple(lines)),), notes=notes + worth_notes(valued))


def disagreement(evidence: Evidence) -> Section | None:
    """Shows on how many images each two members disagree, and how their errors correlate; None for one member."""
    if (main := evidence.main) is None or len(main.members) < 2:
        return None
    told = (
        f"Below the diagonal: the share of the {main.split} images on which two members disagree, in percent, "
        f"{100 * main.disagreement:.1f} % on average. Above it: how their errors correlate, 1 if on the same images."
    )
    names, texts = list(main.members), {}
    for name, matrix in (("error_correlation", main.error_correlations), ("disagreement", main.disagreements)):
        rows = ([own, *(f"{value:.6f}" for value in row)] for own, row in zip(names, matrix, strict=True))
        texts[name] = "".join(",".join(line) + "\n" for line in (["", *names], *rows))
    drawn = pairs_chart(names, 100 * main.disagreements, main.error_correlations, told)
    return Section("disagreement", "Where members disagree", (drawn,), csv=texts)
