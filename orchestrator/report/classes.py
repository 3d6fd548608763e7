"""Tells how the ensemble does class by class: what it confuses, and each class's error with its interval. Pure."""

from collections.abc import Sequence
from dataclasses import astuple

import numpy as np

from orchestrator.fitting import wilson
from orchestrator.report.evidence import Evidence
from orchestrator.report.figures import Cell, confusion_matrix
from orchestrator.report.scores import macro_averages
from orchestrator.report.sections import Section, Table
from orchestrator.report.table import percent

MOST_DRAWN = MOST_LISTED = 30
_KEPT = "All classes are in figures/classes.csv, all pairs of a label and a guess in figures/confusion.csv."


def by_class(evidence: Evidence) -> Section | None:
    """Shows the main split's classes, the worst first by error, and pairs of label and guess by images."""
    if (scores := evidence.main) is None:
        return None
    names = evidence.data.classes
    labels, guess, num = scores.labels, scores.reading.guess, len(names)
    wanted = (labels, guess, labels[labels == guess])
    images, guesses, right = (np.bincount(of, minlength=num).tolist() for of in wanted)
    errors = {own: wilson(images[own] - right[own], images[own]) for own in range(num) if images[own]}
    ranked = sorted(errors.items(), key=lambda item: (-item[1].estimate, -item[1].low))
    lines = [(names[own], f"{images[own]:,}", percent(error), f"{guesses[own]:,}") for own, error in ranked]
    kept = [(names[own], images[own], guesses[own], right[own], *astuple(error)) for own, error in ranked]
    absent = [(names[own], 0, guesses[own], 0, "", "", "") for own in range(num) if not images[own]]
    pairs, counts = (found.tolist() for found in np.unique(labels * num + guess, return_counts=True))
    places = (divmod(pair, num) for pair in pairs)
    found = (Cell(a, b, count, count / images[a]) for (a, b), count in zip(places, counts, strict=True))
    cells = sorted(found, key=lambda one: (-one.images, -one.share))
    tables = [_worst(("class", "images", "top-1 error", "guesses"), lines, "classes")]
    drawings = (confusion_matrix(cells, names, scores.split),) if num <= MOST_DRAWN else ()
    if not drawings:
        wrong = [one for one in cells if one.label != one.guess]
        said = [(f"{names[a]} → {names[b]}", f"{count:,}", f"{100 * share:.1f} %") for a, b, count, share in wrong]
        tables.insert(0, _worst(("label → guess", "images", "of the label's"), said, "confusions"))
    macro = macro_averages(scores.reading, labels, num)
    f1, balanced = (100 * value for value in macro.values())
    notes = [f"On {scores.split}: macro-F1 {f1:.2f} %, balanced accuracy {balanced:.2f} %.", _KEPT]
    notes += [f"Without an image here: {len(absent):,} of {num:,} classes."] if absent else []
    files = {
        "classes": [("class", "images", "guesses", "right", "error", "low", "high"), *kept, *absent],
        "confusion": [("label", "guess", "count"), *((names[a], names[b], count) for a, b, count, _ in cells)],
    }
    return Section("classes", "Classes", drawings, tuple(tables), notes=tuple(notes), csv=files, numbers=macro)


def _worst(header: tuple[str, ...], lines: Sequence[tuple[str, ...]], what: str) -> Table:
    most = f"The worst {MOST_LISTED} of {len(lines):,} {what}"
    caption = most if len(lines) > MOST_LISTED else f"All {what}, the worst first"
    return Table(header, tuple(lines[:MOST_LISTED]), caption)
