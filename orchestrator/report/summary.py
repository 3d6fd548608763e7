"""Says what a run has found, of what it is made, and how to do it again: the words and tables of the page."""

import shlex

from orchestrator.report.evidence import Evidence
from orchestrator.report.sections import Fact, Section, Table
from orchestrator.report.table import (
    AT_CHANCE_MARK,
    HEADER,
    better_lines,
    percent,
    table_lines,
    table_notes,
    table_title,
)
from orchestrator.report.worth import TITLE, worth_notes, worth_tables
from orchestrator.run import read_ledger

_MARKED = "In bold: fewer errors than the first row, beyond the interval of the difference."


def headline(evidence: Evidence) -> Section | None:
    """Says how good the ensemble is."""
    main = evidence.main
    if main is None:
        return None
    mean = sum(own.top1_error for own in main.members.values()) / len(main.members)
    facts = (
        Fact("top-1 error", f"{100 * main.ensemble.top1_error:.2f} %"),
        Fact("one member's, on average", f"{100 * mean:.2f} %"),
        Fact("top-5 error", f"{100 * main.ensemble.top5_error:.2f} %"),
        Fact("NLL", f"{main.ensemble.nll:.4f}"),
        Fact("calibration error", f"{100 * main.ensemble.ece:.2f} %"),
        Fact("members disagree on", f"{100 * main.disagreement:.1f} %"),
    )
    return Section("ensemble", f"The ensemble ({main.combined_as or 'mean'})", facts=facts)


def tables(evidence: Evidence) -> Section:
    """Shows the paper's table of every scored split."""
    caveats = evidence.caveats
    shown = []
    for scores in evidence.scores:
        better, notes = better_lines(scores), table_notes(caveats, scores)
        notes = (_MARKED, *notes) if better else notes
        shown.append(Table(HEADER, table_lines(scores, caveats), table_title(scores), notes, better))
    return Section("errors", "Errors", tables=tuple(shown), notes=() if shown else table_notes(caveats, None))


def review(evidence: Evidence) -> Section | None:
    """Points to the labels to review."""
    said = evidence.caveats.review
    if not said:
        return None
    look = Fact("labels to review", "Look at them", link=evidence.paths.review_page.name)
    return Section("review", "Labels to review", details=(look,), notes=(said,))


def worth(evidence: Evidence) -> Section | None:
    """Shows what members are worth, and what they cost."""
    valued = evidence.worth
    if valued is None:
        return None
    shown = tuple(Table(header, tuple(lines)) for header, lines in worth_tables(valued))
    return Section("worth", TITLE, tables=shown, notes=worth_notes(valued))


def members(evidence: Evidence) -> Section:
    """Shows each member's errors, stages and weights."""
    plan, main, lines = evidence.plan, evidence.main, []
    for name in plan.members:
        own = main.members.get(name) if main else None
        scored = (percent(main.intervals[name]), f"{own.nll:.4f}") if main and own else ("–", "–")
        about = evidence.predictions[name].about
        last = None if name in plan.outside else plan.last_stage(name)
        chain = [] if last is None else [*reversed(plan.ancestors(last)), last]
        # Another member's stage is given with that member's name.
        stages = " → ".join(each.ref.stage if each.ref.member == name else str(each.ref) for each in chain)
        mark = f" {AT_CHANCE_MARK} at chance" if name in evidence.caveats.at_chance else ""
        weights = (stages or "from outside", about.checkpoint, about.checkpoint_sha256[:12])
        lines.append((name + mark, *(scored if main else ()), *weights))
    header = ("", *(("top-1 error", "NLL") if main else ()), "stages", "checkpoint", "sha256")
    return Section("members", "Members", tables=(Table(header, tuple(lines)),))


def again(evidence: Evidence) -> Section:
    """Says how to do it again, and on what the results depend."""
    plan, record = evidence.plan, evidence.record
    numerics, said = record.numerics, evidence.record.command
    command = shlex.join(said) or "(run.json has none: an earlier release launched the run)"
    entries = read_ledger(evidence.paths.ledger).stages.items()
    passed = [f"{name} at update {', '.join(map(str, one.passed_nans))}" for name, one in entries if one.passed_nans]
    values = {
        "command": command,
        "launched in": record.directory,
        "plan hash": record.plan_hash,
        "code digest": record.code_digest,
        **{f"data: {name}": digest for name, digest in record.data_digests.items()},
        "seeds": ", ".join(f"{member} {plan.last_stage(member).seed}" for member in plan.trained),
        "arithmetic": f"{numerics.precision} on {numerics.device}, threads a member: {numerics.threads}",
        "placement": record.placement,
        "versions": ", ".join(f"{name} {version}" for name, version in record.versions.items()),
        "accepted changes": "; ".join(record.accepted),
        "NaN that a replay did not meet again": "; ".join(passed),
    }
    note = (
        "The newest launch as it was typed, without passwords; septet resume RUN_DIR launches it again in the same run."
        " The same plan hash means the same members, settings, seeds and classes."
    )
    details = tuple(Fact(name, value) for name, value in values.items() if value)
    return Section("again", "How to do it again", details=details, notes=(note,))
