"""Says what a run has found, of what it is made, and how to do it again: the words and tables of the page."""

import shlex
import time
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import quote

from orchestrator.combine import Interval
from orchestrator.plan import leaves, plain
from orchestrator.report.evidence import Evidence
from orchestrator.report.sections import Fact, Link, Section, Table
from orchestrator.report.table import AT_CHANCE_MARK, better_lines, percent, table_columns, table_notes, table_title
from orchestrator.run import core_seconds, read_ledger
from orchestrator.text import counted, duration

_MARKED = "In bold: fewer errors than the first row and than the row above, beyond the intervals of both differences."
_MOST_NAMED = 8


def headline(evidence: Evidence) -> Section:
    """Says how good the ensemble is, what was submitted, what it cost, when and where."""
    main, facts = evidence.main, list[Fact]()
    if main is not None:
        own, gain = main.ensemble_compared.error, main.gain
        spread = f"95 % interval {100 * own.low:.1f} to {100 * own.high:.1f} %"
        facts = [Fact(f"top-1 error on {main.split}", f"{100 * own.estimate:.2f} %", spread)]
        if len(main.members) > 1:
            said = f"; McNemar p = {gain.p_best:.2g}; best on these images"
            facts.append(_difference("against the mean member", gain.than_mean))
            facts.append(_difference(f"against the best member, {gain.best}", gain.than_best, said))
    if (sent := evidence.submitted) is not None:
        facts.append(replace(sent, value=Link(str(sent.value), f"../{evidence.paths.submission.name}/{sent.value}")))
    if (review := evidence.review) is not None:
        found = f"{len(review.issues.rows):,} of {review.issues.num_images:,}"
        facts.append(Fact("labels that may be wrong", Link(found, evidence.paths.review_page.name), "in training"))
    title = f"The ensemble ({main.combined_as or 'mean'})" if main else "The ensemble"
    return Section("ensemble", title, facts=(*facts, *_cost(evidence)))


def _difference(name: str, one: Interval, said: str = "") -> Fact:
    spread = f"95 % interval {100 * one.low:+.1f} to {100 * one.high:+.1f} points"
    return Fact(name, f"{100 * one.estimate:+.2f} points", spread + said)


def _cost(evidence: Evidence) -> Iterator[Fact]:
    """Yields what the members have cost, and when and where they were trained, as far as the ledger knows."""
    contents, record = read_ledger(evidence.paths.ledger), evidence.record
    entries = (*contents.stages.values(), *contents.predictions.values())
    spans: dict[int, tuple[float, float]] = {}
    for one in (attempt for entry in entries for attempt in entry.attempts):
        start, end = spans.get(one.launch, (one.started, one.started))
        spans[one.launch] = min(start, one.started), max(end, one.ended or one.started)
    if not spans:
        return
    costs = core_seconds(evidence.paths, evidence.plan, record.numerics.threads).values()
    known = [cost for cost in costs if cost is not None]
    least = "" if len(known) == len(costs) else "at least "
    wall = duration(sum(end - start for start, end in spans.values()))
    launches = f" in {len(spans)} launches" if len(spans) > 1 else ""
    yield Fact("cost", f"{least}{sum(known) / 3600:,.2f} core-hours", f"{wall} of wall clock{launches}")
    ended = time.strftime("%Y-%m-%d %H:%M", time.gmtime(max(end for _, end in spans.values())))
    places = [attempt.where for entry in entries for attempt in entry.attempts if attempt.where]
    machines = tuple(dict.fromkeys(place.machine for place in places))
    devices = tuple(dict.fromkeys(place.device for place in places))
    where = f"on {_named(machines, 'machine')}: {_named(devices, 'device')}" if places else ""
    yield Fact("ended", f"{ended} UTC", where)


def _named(names: tuple[str, ...], noun: str) -> str:
    return ", ".join(names) if len(names) <= _MOST_NAMED else counted(len(names), noun)


def tables(evidence: Evidence) -> Section:
    """Shows the paper's table of every scored split; notes that all have stand below them once."""
    caveats, scored = evidence.caveats, evidence.scores
    better = [better_lines(scores) for scores in scored]
    notes = [(_MARKED,) * bool(own) + table_notes(caveats, one) for one, own in zip(scored, better, strict=True)]
    first = notes[0] if notes else table_notes(caveats, None)
    common = tuple(note for note in first if all(note in each for each in notes))
    shown = tuple(
        Table(
            *table_columns(scores, caveats),
            table_title(scores),
            tuple(note for note in own if note not in common),
            marked,
        )
        for scores, own, marked in zip(scored, notes, better, strict=True)
    )
    return Section("table", "Errors", tables=shown, notes=common)


def members(evidence: Evidence) -> Section:
    """Shows each member's errors, stages and weights, and leads to its log and to its run in MLflow."""
    plan, main, paths, lines = evidence.plan, evidence.main, evidence.paths, []
    runs = evidence.record.mlflow.get("members", {})
    for name in plan.members:
        own = main.members.get(name) if main else None
        scored = (percent(main.intervals[name]), f"{own.nll:.4f}") if main and own else ("–", "–")
        about = evidence.predictions[name].about
        last = None if name in plan.outside else plan.last_stage(name)
        chain = [] if last is None else [*reversed(plan.ancestors(last)), last]
        # Another member's stage is given with that member's name.
        stages = " → ".join(each.ref.stage if each.ref.member == name else str(each.ref) for each in chain)
        mark = f" {AT_CHANCE_MARK} at chance" if name in evidence.caveats.at_chance else ""
        weights = (about.checkpoint, about.checkpoint_sha256[:12])
        log = paths.log(last.ref) if last else None
        links = (
            Link("log", f"../{quote(str(log.relative_to(paths.root)))}") if log and log.is_file() else "",
            _mlflow_link("MLflow", evidence, runs.get(name)),
        )
        lines.append((name + mark, stages or "from outside", *(scored if main else ()), *weights, *links))
    header = ("member", "stages", *(("top-1 error", "NLL") if main else ()), "checkpoint", "sha256", "log", "MLflow")
    kept = [place for place in range(len(header)) if any(line[place] for line in lines)]
    shown = tuple(tuple(line[place] for place in kept) for line in lines)
    return Section("members", "Members", tables=(Table(tuple(header[place] for place in kept), shown, num_texts=2),))


def _mlflow_link(text: str, evidence: Evidence, run_id: str | None) -> Link | str:
    """Returns a link to a run where the store is a server."""
    ids = evidence.record.mlflow
    uri = str(ids.get("uri", "")).replace("***@", "")
    is_served = run_id and uri.startswith(("http://", "https://"))
    # Without its query MLflow opens a single run on its pages for language models.
    page = f"{uri.rstrip('/')}/#/experiments/{ids.get('experiment_id')}/runs/{run_id}?workflowType=machine_learning"
    return Link(text, page) if is_served else ""


def settings(evidence: Evidence) -> Section | None:
    """Shows in which settings of their last stages members differ; None for one member."""
    plan = evidence.plan
    if len(plan.trained) < 2:
        return None
    recipes = {name: dict(leaves(plain(plan.last_stage(name).recipe))) for name in plan.trained}
    lines = []
    for key in sorted(set[str]().union(*recipes.values())):
        values: dict[str, list[str]] = {}
        for name, recipe in recipes.items():
            values.setdefault(recipe.get(key, "–"), []).append(name)
        if len(values) > 1:
            lines += [(key, value, _named(tuple(names), "member")) for value, names in values.items()]
    shown = (Table(("setting", "value", "members"), tuple(lines), num_texts=3),) if lines else ()
    note = "All other settings are the same for all members." if lines else "Members differ in their seeds alone."
    return Section("settings", "Settings that differ between members", tables=shown, notes=(note,))


def again(evidence: Evidence) -> Section:
    """Says how to do it again, and on what the results depend."""
    plan, record = evidence.plan, evidence.record
    numerics, said = record.numerics, evidence.record.command
    command = shlex.join(said) or "(run.json has none: an earlier release launched the run)"
    entries = read_ledger(evidence.paths.ledger).stages.items()
    passed = [f"{name} at update {', '.join(map(str, one.passed_nans))}" for name, one in entries if one.passed_nans]
    ui = "septet ui RUN_DIR" if record.mlflow.get("uri") else ""
    values: dict[str, str | Link] = {
        "command": command,
        "launched in": record.directory,
        "MLflow": _mlflow_link("the ensemble's run", evidence, record.mlflow.get("run_id")) or ui,
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
