"""Scores a split: each member, the paper's rows, the ensemble; as values, JSON and text. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.combine import STUDENT, Combination, Combined, Interval, Labels, Missing, Rows, mean
from orchestrator.config import CombineMethod
from orchestrator.report.comparisons import Compared, Gain, compare, compared_json, error_interval, gain
from orchestrator.report.reliability import Calibrated, measure, states
from orchestrator.report.scores import (
    Reading,
    Score,
    TableRow,
    disagreements,
    error_correlations,
    mean_score,
    read_images,
    score,
    table_rows,
)
from orchestrator.report.students import Student, score_students, student_line
from orchestrator.text import counted, table
from workers.settings import OUT_OF_FOLD

AT_CHANCE_MARK = "†"
_MOST_NAMED = 5
_PRECISION = (
    "In brackets: 95 % intervals of the top-1 error, over images (Wilson; of means and differences a bootstrap).",
    "Differences are in points, on the same images; other seeds would add to all intervals.",
)
_NO_SCORES = "No labelled image is held out of training, so there are no errors to report."


@dataclass(frozen=True)
class ScoredRow:
    """A row of the table, its score, and how it compares with other rows."""

    row: TableRow
    score: Score
    compared: Compared


@dataclass(frozen=True)
class SplitScores:
    """All scores of one labelled split; `intervals` are of the members' top-1 errors.

    `combined_as` names the combination of `ensemble`, "" for the plain mean. `disagreements` and `error_correlations`
    (members, members) are of `members` in their order. `readings` are of members' own probabilities, `reading` of the
    ensemble's.
    """

    split: str
    num_images: int
    num_classes: int
    members: Mapping[str, Score]
    intervals: Mapping[str, Interval]
    rows: tuple[ScoredRow, ...]
    ensemble: Score
    ensemble_compared: Compared
    disagreement: float
    combined_as: str
    disagreements: NDArray[np.float64]
    error_correlations: NDArray[np.float64]
    calibrated: Calibrated
    gain: Gain
    labels: Labels
    readings: Mapping[str, Reading]
    reading: Reading
    students: Mapping[str, Student] = field(default_factory=dict)


@dataclass(frozen=True)
class Caveats:
    """What qualifies the scores.

    Members at chance, members left out, whether val chose learning-rate cuts or checkpoints, and images that count as
    uniform because they cannot be read, by split; members trained on dev and val too, with the val errors of their
    first passes, None if unknown; how many different answers to each split were scored here, 0 if unknown;
    by split the members from outside that have no predictions of it; splits that are `unscored` for want of some; a
    line on a member that should be dropped, or ""; the recipes' errors out of fold; a line on labels to review, or "".
    """

    at_chance: tuple[str, ...] = ()
    cuts_saw_val: bool = False
    missing: tuple[Missing, ...] = ()
    unreadable: Mapping[str, Sequence[str]] = field(default_factory=dict)
    refits: Mapping[str, float | None] = field(default_factory=dict)
    looks: Mapping[str, int] = field(default_factory=dict)
    partial: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unscored: tuple[str, ...] = ()
    drop: str = ""
    out_of_fold: Mapping[str, Interval] = field(default_factory=dict)
    review: str = ""


# Cells of a line of the table; errors in percent, differences in points.
Line = tuple[str, ...]
_TOP, _TOP5 = 5, "top-5 error"
HEADER: Line = ("", "members", "top-1 error", _TOP5, "NLL", "than the first row", "than the row above")


def score_split(
    split: str,
    members: Mapping[str, Rows],
    base: Sequence[str],
    pretrained: Sequence[str],
    combined: Combined,
    labels: Labels,
    students: Mapping[str, Rows] = MappingProxyType({}),
) -> SplitScores:
    """Scores `members` (name → rows × classes), the paper's rows, `combined` and `students` against `labels` (rows,).

    Averages are summed in the order of `members`, like the submission, so that equal averages have equal bits.
    """
    outside = tuple(sorted(set(members) - {*base, *pretrained}))
    names, table = (*base, *pretrained, *outside), table_rows(base, pretrained, outside)
    combined_as = _name(combined.combination, by_rows=not outside)
    of_states = states(combined)
    averaged = {row.name: [members[name] for name in members if name in row.members] for row in table if row.averaged}
    if not combined_as and averaged:
        # The last one is the ensemble.
        averaged.popitem()
    asked = (*of_states, *(members[name] for name in names), *map(mean, averaged.values()), *students.values())
    readings = read_images(asked, labels)
    own_states, rest = readings[: len(of_states)], readings[len(of_states) :]
    ensemble, read = own_states[-1], dict(zip((*names, *averaged, *students), rest, strict=True))
    scored = {name: score(read[name]) for name in names}
    values, wrongs = [], []
    for row in table:
        if row.averaged:
            values.append(score(one := read.get(row.name, ensemble)))
            wrongs.append(one.wrong)
        else:
            values.append(mean_score([scored[name] for name in row.members]))
            wrongs.append(np.mean([read[name].wrong for name in row.members], axis=0))
    best = np.stack([read[name].guess for name in names])
    apart = disagreements(best)
    wrongs.append(ensemble.wrong)
    *compared, of_ensemble = compare(wrongs)
    of_members = np.mean([read[name].wrong for name in names], axis=0)
    return SplitScores(
        split=split,
        num_images=len(labels),
        num_classes=combined.shape[1],
        members=scored,
        intervals={name: error_interval(read[name].wrong) for name in names},
        rows=tuple(map(ScoredRow, table, values, compared)),
        ensemble=score(ensemble),
        ensemble_compared=of_ensemble,
        disagreement=float(apart[np.triu_indices(len(best), 1)].mean()) if len(best) > 1 else 0.0,
        combined_as=combined_as,
        disagreements=apart,
        error_correlations=error_correlations(best, labels),
        calibrated=measure(own_states, combined),
        gain=gain(ensemble.wrong, {name: read[name].wrong for name in names}),
        labels=labels,
        readings={name: read[name] for name in names},
        reading=ensemble,
        students=score_students({name: read[name] for name in students}, wrongs, of_members),
    )


def _name(combination: Combination, *, by_rows: bool) -> str:
    """Returns what names the combination; "" for the plain mean, if the last of the paper's rows is that."""
    calibration = combination.calibration
    corrected = f", {calibration.asked}" if calibration and calibration.is_taken else ""
    if by_rows and combination.method is CombineMethod.mean and len(set(combination.weights)) == 1 and not corrected:
        return ""
    return f"{combination.method}{', weights given' if combination.given else ''}{corrected}"


def split_json(scores: SplitScores) -> dict[str, Any]:
    """Returns what scores.json says of a split."""
    return {
        "split": scores.split,
        "num_images": scores.num_images,
        "num_classes": scores.num_classes,
        "members": {name: _errors(own) for name, own in scores.members.items()},
        "rows": [{"name": one.row.name, "members": list(one.row.members), **_errors(one.score)} for one in scores.rows],
        "ensemble": {**_errors(scores.ensemble), "ece": scores.ensemble.ece, "disagreement": scores.disagreement},
        "intervals": {
            "members": {name: asdict(one) for name, one in scores.intervals.items()},
            "rows": compared_json({one.row.name: one.compared for one in scores.rows}),
            **compared_json({"ensemble": scores.ensemble_compared}),
        },
        "calibration": asdict(scores.calibrated),
        "gain": asdict(scores.gain),
        **_students_json(scores),
    }


def _students_json(scores: SplitScores) -> dict[str, Any]:
    """Returns the key `students`, where there are any."""
    own = {}
    for name, one in scores.students.items():
        intervals = {"error": one.compared.error, "than_ensemble": one.than_ensemble, "than_members": one.than_members}
        own[name] = {**_errors(one.score), **{key: asdict(each) for key, each in intervals.items()}}
    return {"students": own} if own else {}


def _errors(value: Score) -> dict[str, float]:
    return {"top1_error": value.top1_error, "top5_error": value.top5_error, "nll": value.nll}


def table_lines(scores: SplitScores, caveats: Caveats) -> tuple[Line, ...]:
    """Returns the paper's rows, and the ensemble unless it is the plain mean; marks rows with a member at chance."""
    lines = []
    for one in scores.rows:
        mark = f" {AT_CHANCE_MARK}" if set(one.row.members) & set(caveats.at_chance) else ""
        count = len(one.row.members)
        members = str(count) if one.row.averaged or count == 1 else f"mean of {count}"
        lines.append(_line(one.row.name + mark, members, one.score, one.compared))
    if scores.combined_as:
        mark = f" {AT_CHANCE_MARK}" if caveats.at_chance else ""
        name = f"ensemble, {scores.combined_as}{mark}"
        lines.append(_line(name, str(len(scores.members)), scores.ensemble, scores.ensemble_compared))
    lines += [_line(f"{name}, distilled", "1", one.score, one.compared) for name, one in scores.students.items()]
    return tuple(lines)


def table_columns(scores: SplitScores, caveats: Caveats) -> tuple[Line, tuple[Line, ...]]:
    """Returns header and lines of the table without the columns that say nothing.

    Of five classes all are among the first five. One row differs from none; of two, the first is the one above.
    """
    lines = table_lines(scores, caveats)
    silent = set(HEADER[-2:] if len(lines) == 1 else HEADER[-1:] if len(lines) == 2 else ())
    silent |= {_TOP5} if scores.num_classes <= _TOP else set()
    kept = [place for place, name in enumerate(HEADER) if name not in silent]
    header, *shown = (tuple(line[place] for place in kept) for line in (HEADER, *lines))
    return header, tuple(shown)


def better_lines(scores: SplitScores) -> tuple[int, ...]:
    """Returns the indices of `table_lines` with fewer errors than the first and than that above, beyond both intervals.

    A mean of members' errors is no answer that anybody could submit, and is never among them.
    """
    found = [(one.row.averaged or len(one.row.members) == 1, one.compared) for one in scores.rows]
    found += [(True, scores.ensemble_compared)] * bool(scores.combined_as)
    found += [(True, one.compared) for one in scores.students.values()]
    return tuple(
        place
        for place, (is_one, own) in enumerate(found)
        if is_one and all(other and other.high < 0 for other in (own.than_first, own.than_above))
    )


def _line(name: str, members: str, value: Score, compared: Compared) -> Line:
    top1, top5 = percent(compared.error), f"{100 * value.top5_error:.2f} %"
    return (name, members, top1, top5, f"{value.nll:.4f}", points(compared.than_first), points(compared.than_above))


def percent(error: Interval) -> str:
    """Formats an error in percent with its interval: `38.10 % (34.0 to 42.4)`."""
    return f"{100 * error.estimate:.2f} % ({100 * error.low:.1f} to {100 * error.high:.1f})"


def points(apart: Interval | None) -> str:
    """Formats a difference in points with its interval: `-1.98 (-2.9 to -1.1)`; "" if there is none."""
    return "" if apart is None else f"{100 * apart.estimate:+.2f} ({100 * apart.low:+.1f} to {100 * apart.high:+.1f})"


def table_title(scores: SplitScores) -> str:
    """Returns a line that names the split and its size."""
    return f"{scores.split}: {counted(scores.num_images, 'image')}, {counted(scores.num_classes, 'class')}"


def table_notes(caveats: Caveats, scores: SplitScores | None) -> tuple[str, ...]:
    """Returns the notes below the table of `scores`, if any image is scored."""
    gone = [one for one in caveats.missing if one.why != STUDENT]
    notes = [f"MISSING: {one.member} is not in any row and not in the submission ({one.why})." for one in gone]
    for split, rows in caveats.unreadable.items():
        named = ", ".join(rows[:_MOST_NAMED]) + (", …" if rows[_MOST_NAMED:] else "")
        which = counted(len(rows), f"{split} image")
        notes.append(f"UNREADABLE: {which} could not be read and got uniform probabilities: {named}")
    if caveats.refits:
        firsts = (name if error is None else f"{name} ({error:.1%})" for name, error in caveats.refits.items())
        notes.append(f"REFIT on dev and val, which are not scored (val error of the first pass): {', '.join(firsts)}")
    notes += _incomplete_notes(caveats)
    if caveats.out_of_fold:
        errors = ", ".join(f"{name} {percent(error)}" for name, error in caveats.out_of_fold.items())
        notes.append(f"OUT OF FOLD: top-1 error on training images, by the members that did not see them: {errors}")
    notes += [caveats.review] if caveats.review else []
    if scores:
        notes += [student_line(name, one) for name, one in scores.students.items()]
        notes += (*_PRECISION, *_reliability_notes(scores.split, scores.calibrated))
    elif not caveats.unscored:
        notes.append(_NO_SCORES)
    for split, count in caveats.looks.items():
        if count > 1:
            scored_times = f"LOOKS: {count} different answers to {split} of these images were scored on this store"
            notes.append(f"{scored_times}; the best of many looks better than it is.")
    if caveats.drop and scores:
        notes.append(caveats.drop)
    if caveats.cuts_saw_val:
        notes.append("dev_fraction is 0: val also chose learning-rate cuts and best checkpoints, as in the paper.")
    if caveats.at_chance:
        verb = "was" if len(caveats.at_chance) == 1 else "were"
        notes.append(
            f"{AT_CHANCE_MARK} with {', '.join(caveats.at_chance)}, which {verb} still at chance after training."
        )
    return tuple(notes)


def _incomplete_notes(caveats: Caveats) -> Iterator[str]:
    for split, names in caveats.partial.items():
        rest = f"{split} is not scored" if split in caveats.unscored else f"the errors on {split} are of the others"
        yield f"FROM OUTSIDE: {', '.join(names)} has no predictions of {split}, so {rest}."
    if OUT_OF_FOLD in caveats.unscored and OUT_OF_FOLD not in caveats.partial:
        yield "OUT OF FOLD: not scored, since that needs the members of all folds."


def _reliability_notes(split: str, found: Calibrated) -> Iterator[str]:
    for name, one in (("the ensemble", found.before), ("calibrated", found.after)):
        if one is not None:
            ece = f"ECE {100 * one.ece:.2f} % (equal-mass {100 * one.ece_equal_mass:.2f} %)"
            yield f"Reliability of {name}: {ece}, Brier {one.brier:.4f}, NLL {one.nll:.4f}."
    if found.sets is not None:
        now = found.after or found.before
        asked, share = (f"{100 * (each or 0):.4g} %" for each in (found.sets.coverage, now.coverage))
        line = f"Prediction sets for {asked}: {share} hold the right class; they have {now.set_size:.2f} classes."
        yield line + (" Fitted to these images, so too good." if found.sets.split == split else "")


def table_text(scores: SplitScores | None, caveats: Caveats) -> str:
    """Returns the table for a terminal, ending in a newline; its notes alone if nothing is scored."""
    if scores is None:
        return "\n".join(table_notes(caveats, None)) + "\n"
    header, lines = table_columns(scores, caveats)
    return "\n".join([table_title(scores), "", *table((header, *lines), 1), "", *table_notes(caveats, scores)]) + "\n"
