"""Scores a split: each member, the paper's rows, the ensemble; as values, JSON and text. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.combine import Combined, Labels, Missing, Rows, mean
from orchestrator.config import CombineMethod
from orchestrator.report.scores import Score, TableRow, disagreement, mean_score, score, standard_error, table_rows
from orchestrator.text import counted, table

AT_CHANCE_MARK = "†"
_MOST_NAMED = 5
_PRECISION = (
    "± is one binomial standard error; rows share images, so differences between rows are more precise than ± suggests."
)
_NO_SCORES = "No labelled image is held out of training, so there are no errors to report."


@dataclass(frozen=True)
class ScoredRow:
    """A row of the table and its score."""

    row: TableRow
    score: Score


@dataclass(frozen=True)
class SplitScores:
    """All scores of one labelled split; `method` is the combination method of `ensemble`."""

    split: str
    num_images: int
    num_classes: int
    members: Mapping[str, Score]
    rows: tuple[ScoredRow, ...]
    ensemble: Score
    disagreement: float
    method: CombineMethod


@dataclass(frozen=True)
class Caveats:
    """What qualifies the scores.

    Members at chance, members left out, whether val chose learning-rate cuts or checkpoints, and images that count as
    uniform because they cannot be read, by split; members trained on dev and val too, with the val errors of their
    first passes, None if unknown.
    """

    at_chance: tuple[str, ...] = ()
    cuts_saw_val: bool = False
    missing: tuple[Missing, ...] = ()
    unreadable: Mapping[str, Sequence[str]] = field(default_factory=dict)
    refits: Mapping[str, float | None] = field(default_factory=dict)


# Cells of a line of the table; errors are in percent with one binomial standard error.
Line = tuple[str, str, str, str, str]
HEADER: Line = ("", "members", "top-1 error", "top-5 error", "NLL")


def score_split(
    split: str,
    members: Mapping[str, Rows],
    base: Sequence[str],
    pretrained: Sequence[str],
    combined: Combined,
    labels: Labels,
) -> SplitScores:
    """Scores `members` (name → rows × classes), the paper's rows and `combined` against `labels` (rows,)."""
    own = {name: score(rows, labels) for name, rows in members.items()}
    rows = []
    for row in table_rows(base, pretrained):
        if row.averaged:
            # Sorted like the submission's mean, so that equal averages have equal bits.
            value = score(mean([members[name] for name in sorted(row.members)]), labels)
        else:
            value = mean_score([own[name] for name in row.members])
        rows.append(ScoredRow(row, value))
    return SplitScores(
        split=split,
        num_images=len(labels),
        num_classes=combined.shape[1],
        members=own,
        rows=tuple(rows),
        ensemble=score(combined, labels),
        disagreement=disagreement(list(members.values())),
        method=combined.combination.method,
    )


def scores_json(scores: Sequence[SplitScores], missing: Sequence[Missing]) -> dict[str, Any]:
    """Returns the content of scores.json; the first of `scores` is the main split.

    The key `missing` exists only if a member is missing.
    """
    main, *others = scores
    splits = {other.split: _split_json(other) for other in others}
    return _split_json(main) | {"splits": splits} | ({"missing": [asdict(one) for one in missing]} if missing else {})


def _split_json(scores: SplitScores) -> dict[str, Any]:
    return {
        "split": scores.split,
        "num_images": scores.num_images,
        "num_classes": scores.num_classes,
        "members": {name: _errors(own) for name, own in scores.members.items()},
        "rows": [{"name": one.row.name, "members": list(one.row.members), **_errors(one.score)} for one in scores.rows],
        "ensemble": {**_errors(scores.ensemble), "ece": scores.ensemble.ece, "disagreement": scores.disagreement},
    }


def _errors(value: Score) -> dict[str, float]:
    return {"top1_error": value.top1_error, "top5_error": value.top5_error, "nll": value.nll}


def table_lines(scores: SplitScores, caveats: Caveats) -> tuple[Line, ...]:
    """Returns the paper's rows, and the ensemble unless it is the plain mean; marks rows with a member at chance."""
    lines = []
    for one in scores.rows:
        mark = f" {AT_CHANCE_MARK}" if set(one.row.members) & set(caveats.at_chance) else ""
        count = len(one.row.members)
        members = str(count) if one.row.averaged or count == 1 else f"mean of {count}"
        lines.append(_line(one.row.name + mark, members, one.score, scores.num_images))
    if scores.method is not CombineMethod.mean:
        mark = f" {AT_CHANCE_MARK}" if caveats.at_chance else ""
        name = f"ensemble, {scores.method}{mark}"
        lines.append(_line(name, str(len(scores.members)), scores.ensemble, scores.num_images))
    return tuple(lines)


def _line(name: str, members: str, value: Score, num_images: int) -> Line:
    top1, top5 = percent(value.top1_error, num_images), percent(value.top5_error, num_images)
    return (name, members, top1, top5, f"{value.nll:.4f}")


def percent(error: float, num_images: int) -> str:
    """Formats an error in percent with its binomial standard error: `38.10 ± 2.17 %`."""
    return f"{100 * error:.2f} ± {100 * standard_error(error, num_images):.2f} %"


def table_title(scores: SplitScores) -> str:
    """Returns a line that names the split and its size."""
    return f"{scores.split}: {counted(scores.num_images, 'image')}, {counted(scores.num_classes, 'class')}"


def table_notes(caveats: Caveats, *, scored: bool = True) -> tuple[str, ...]:
    """Returns the notes below the table."""
    gone = caveats.missing
    notes = [f"MISSING: {one.member} is not in any row and not in the submission ({one.why})." for one in gone]
    for split, rows in caveats.unreadable.items():
        named = ", ".join(rows[:_MOST_NAMED]) + (", …" if rows[_MOST_NAMED:] else "")
        which = counted(len(rows), f"{split} image")
        notes.append(f"UNREADABLE: {which} could not be read and got uniform probabilities: {named}")
    if caveats.refits:
        firsts = (name if error is None else f"{name} ({error:.1%})" for name, error in caveats.refits.items())
        notes.append(f"REFIT on dev and val, which are not scored (val error of the first pass): {', '.join(firsts)}")
    notes.append(_PRECISION if scored else _NO_SCORES)
    if caveats.cuts_saw_val:
        notes.append("dev_fraction is 0: val also chose learning-rate cuts and best checkpoints, as in the paper.")
    if caveats.at_chance:
        verb = "was" if len(caveats.at_chance) == 1 else "were"
        notes.append(
            f"{AT_CHANCE_MARK} with {', '.join(caveats.at_chance)}, which {verb} still at chance after training."
        )
    return tuple(notes)


def table_text(scores: SplitScores | None, caveats: Caveats) -> str:
    """Returns the table for a terminal, ending in a newline; its notes alone if nothing is scored."""
    if scores is None:
        return "\n".join(table_notes(caveats, scored=False)) + "\n"
    lines = (HEADER, *table_lines(scores, caveats))
    return "\n".join([table_title(scores), "", *table(lines, 1), "", *table_notes(caveats)]) + "\n"


def to_markdown(scores: SplitScores, caveats: Caveats) -> str:
    """Returns the table in Markdown, ending in a newline."""
    lines = [
        f"## {table_title(scores)}",
        "",
        _markdown_row(HEADER),
        "|:---|---:|---:|---:|---:|",
        *(_markdown_row(line) for line in table_lines(scores, caveats)),
        "",
        *(f"- {note}" for note in table_notes(caveats)),
    ]
    return "\n".join(lines) + "\n"


def _markdown_row(line: Line) -> str:
    # An asterisk would start emphasis.
    return "| " + " | ".join(cell.replace("*", "\\*") for cell in line) + " |"
