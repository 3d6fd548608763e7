"""Makes table, submission and report from stored predictions; needs no model, dataset or cluster."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from orchestrator.combine import (
    Combination,
    Missing,
    allowed_missing,
    equal,
    fitting_split,
    left_out,
    no_sets,
    weights_of,
    without,
)
from orchestrator.config import (
    FITTED,
    TARGET,
    Calibrator,
    CombineConfig,
    CombineMethod,
    Metric,
    SubmissionConfig,
    metric_of,
)
from orchestrator.opened import Opened, errors_by_members, find_issues, open_members, score_splits, value_members
from orchestrator.plan import Plan
from orchestrator.report import (
    Caveats,
    Evidence,
    Fact,
    SplitScores,
    drop_note,
    metric_told,
    table_text,
    write_report,
    write_review,
)
from orchestrator.run import (
    Book,
    RunPaths,
    RunRecord,
    SubmissionDigests,
    enter_look,
    find_finished,
    open_book,
    read_record,
    read_run_data,
)
from orchestrator.submission import ask, find_manifest, write_submission
from orchestrator.text import counted
from orchestrator.tracking import Tracker
from workers.errors import DataError
from workers.settings import OUT_OF_FOLD
from workers.storage import parse_json

_RANK_BY_AUC = "combine=rank orders the classes of each image, and auc the images of each class; combine=mean suits it."


@dataclass(frozen=True)
class Results:
    """A run's results: the table as text, the ensemble's scores by their names in scores.json, and files.

    `members` are each member's scores; `files` are the report's; `submission` and `digests` are None if only the report
    was made. `missing` are members that the run does without; `num_unreadable` counts rows of the submission's split.
    `scores` are of all scored splits, the main one first. `by_members` has, where a submission was written, the
    errors by split of the first 1, 2, … finished members.
    """

    table_text: str
    ensemble: Mapping[str, float]
    members: Mapping[str, Mapping[str, float]]
    submission: Path | None
    files: tuple[Path, ...]
    missing: tuple[Missing, ...] = ()
    digests: SubmissionDigests | None = None
    num_unreadable: Mapping[str, int] = field(default_factory=dict)
    scores: tuple[SplitScores, ...] = ()
    by_members: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def publish(self, paths: RunPaths, trained: Collection[str], tracker: Tracker) -> None:
        """Tells the tracker of a run whose `trained` members have runs of their own."""
        tracker.log_by_members({f"{split}_top1_error": curve for split, curve in self.by_members.items()})
        for one in self.scores:
            students = {name: each.score for name, each in one.students.items()}
            for member, score in {"": one.ensemble, **one.members, **students}.items():
                if not member or member in trained:
                    tracker.log_scores({f"{one.split}/{name}": value for name, value in asdict(score).items()}, member)
        # Names of earlier releases; they go with 0.3.
        tracker.log_scores({f"ensemble/{name}": value for name, value in self.ensemble.items()})
        tracker.log_scores({f"data/{split}_unreadable": count for split, count in self.num_unreadable.items()})
        for member, scores in self.members.items():
            # A member from outside has no run of its own.
            key, own = ("final", member) if member in trained else (member, "")
            tracker.log_scores({f"{key}/{name}": value for name, value in scores.items()}, own)
        if self.digests is not None:
            # Also kept outside the run directory, to detect changes of its files.
            digests = self.digests
            sha256 = {"septet.submission_sha256": digests.sha256, "septet.manifest_sha256": digests.manifest_sha256}
            tracker.tag_ensemble(sha256)
        # Without its title, which is the experiment's name.
        tracker.describe(paths.report_table.read_text(encoding="utf-8").partition("\n\n")[2])
        tracker.log_artifact(paths.config_yaml)
        tracker.log_artifact(paths.submission, "submission")
        tracker.log_artifact(paths.report, "report")


def write_results(
    paths: RunPaths,
    plan: Plan,
    combine: CombineConfig,
    submission: SubmissionConfig,
    book: Book | None = None,
    metric: Metric | None = None,
) -> Results:
    """Combines the stored predictions and writes submission and report. The caller holds the run directory's lock.

    `book` has the digests of what was committed and records those of the submission; by default the run's own. By
    `metric` a method is fitted; by default that of the submission's format.

    Raises:
        ConfigError: the submission's template, class ids or `min_members`, or `combine.without`, do not fit; nothing
            has been changed.
        MemberFailed: a member's last stage is not finished, or its predictions are missing; with `min_members`: of
            more members than it allows.
        CheckFailed: predictions are damaged, of other data or another checkpoint, changed since they were committed, or
            not probabilities.
    """
    data = read_run_data(paths.data)
    ask(submission, data)
    chosen = left_out(combine, plan, paths)
    plan = without(plan, chosen)
    failed = allowed_missing(paths, plan, data, submission)
    missing, plan, book = (*chosen, *failed), without(plan, failed), book or open_book(paths)
    opened = open_members(paths, plan, book.committed)
    metric = metric or metric_of(submission.format)
    found = _calibrated(plan, opened, combine, metric)
    opened = replace(opened, combination=found)
    combined, members = opened.combined(data.submitted), opened.members[data.submitted]
    assert combined is not None, "every member has the submitted split"
    given = (submission, opened.data, combined, members, plan, missing, book, found)
    digests = write_submission(paths.submission, *given)
    results = _report(paths, plan, opened, missing, metric)
    scored = [one.split for one in results.scores if one.split != OUT_OF_FOLD]
    by_members = {split: errors_by_members(paths, opened, split) for split in scored}
    return replace(results, submission=paths.submission / digests.file, digests=digests, by_members=by_members)


def rebuild_report(paths: RunPaths, plan: Plan, combine: CombineConfig, metric: Metric) -> Results:
    """Writes the report again, combined as the last submission, or by `combine` and `metric` if the run has none.

    Members are valued by the last report's metric, which a submission may have given, or by `metric`.

    Raises:
        MemberFailed, CheckFailed: as `write_results`.
    """
    last = find_manifest(paths)
    missing = last.missing if last else ()
    plan = without(plan, missing)
    opened = open_members(paths, plan, open_book(paths).committed)
    if last is None or {one.name for one in last.members} != set(plan.members):
        opened = replace(opened, combination=_calibrated(plan, opened, combine, metric))
    else:
        opened = opened.ordered([one.name for one in last.members], last.combination)
    with suppress(OSError, ValueError):
        metric = metric_told(parse_json(paths.report_scores.read_bytes())) or metric
    return _report(paths, plan, opened, missing, metric)


def _combination(plan: Plan, opened: Opened, combine: CombineConfig, metric: Metric) -> Combination:
    method, data = combine.method, opened.data
    if method not in FITTED:
        names = [one.member for one in opened.members[data.submitted]]
        found = equal(method, len(names))
        if combine.weights:
            found = replace(found, weights=weights_of(combine, names, plan.voters), given=combine.weights)
        return replace(found, note=_RANK_BY_AUC) if (method, metric) == (CombineMethod.rank, Metric.auc) else found
    split = fitting_split(f"combine={method}", plan, opened.members)
    if data.splits[split].labels is None:
        raise DataError(f"{split} has no labels to fit combine={method} to; choose combine=mean")
    found = opened.fitted(method, metric, split)
    if split != "val" or found.fit is None or not found.fit.is_taken:
        return found
    note = f"no images of dev: combine={method} was fitted on val, so its errors are too optimistic"
    return replace(found, note=note)


def _calibrated(plan: Plan, opened: Opened, combine: CombineConfig, metric: Metric) -> Combination:
    """Returns the combination with its calibration, and with prediction sets where labelled images are held out."""
    found, setting = _combination(plan, opened, combine, metric), f"combine.calibration={combine.calibration}"
    if combine.calibration is Calibrator.none and no_sets(plan, opened.labelled):
        return found
    split = fitting_split(setting, plan, opened.labelled)
    return replace(opened, combination=found).calibrated(combine, split)


def _report(paths: RunPaths, plan: Plan, opened: Opened, missing: tuple[Missing, ...], metric: Metric) -> Results:
    scores = score_splits(plan, opened)
    at_chance = tuple(member for member in plan.trained if opened.finished[member].at_chance)
    worth = value_members(paths, plan, opened, scores[0].split, metric) if scores else None
    # The table says it whatever is combined.
    splits, record = opened.data.splits, read_record(paths)
    unreadable = {name: [one.rows[row] for row in one.unreadable] for name, one in splits.items() if one.unreadable}
    steers = any(stage.recipe.picks_epochs(record.keep) or stage.recipe.schedule.looks for stage in plan.stages)
    first = {member: find_finished(paths, plan.ancestors(plan.last_stage(member))[0]) for member in plan.refits}
    refits = {member: None if found is None else found.val_error for member, found in first.items()}
    cuts_saw_val = (steers or bool(refits or plan.rungs)) and "dev" not in splits and "val" in splits
    looks = {one.split: _looks(record, opened, one.split) for one in scores if one.split != OUT_OF_FOLD}
    partial = {split: lacking for split in opened.data.scored if (lacking := plan.lacking(split))}
    incomplete = () if plan.is_covered or OUT_OF_FOLD not in opened.data.scored else (OUT_OF_FOLD,)
    unscored = tuple(
        each for each in dict.fromkeys((*partial, *incomplete)) if each not in {one.split for one in scores}
    )
    # Without one of its folds a recipe has no out-of-fold predictions.
    drop = drop_note(worth) if worth and not plan.is_folded else ""
    out_of_fold = next((one.intervals for one in scores if one.split == OUT_OF_FOLD), {})
    review = write_review(paths, plan, record, opened.data, issues) if (issues := find_issues(opened)) else None
    said = review.line if review else ""
    notes = (missing, unreadable, refits, looks, partial, unscored, drop, out_of_fold, said)
    caveats = Caveats(at_chance, cuts_saw_val, *notes)
    predictions = {one.member: one for one in opened.members[opened.data.submitted]}
    combined = {split: whole for split in opened.members if (whole := opened.combined(split)) is not None}
    if sent := find_manifest(paths):
        about = f"{sent.format} of {counted(sent.num_rows, f'{sent.split} image')}, sha256 {sent.sha256[:12]}"
    submitted = Fact("submitted", sent.file, about) if sent else None
    made_from = (paths, plan, record, opened.data, scores, predictions, combined, caveats, worth, review)
    files = write_report(Evidence(*made_from, submitted))
    main = scores[0] if scores else None
    text = table_text(main, caveats)
    used = opened.combination
    lines = [*(used.fit.lines() if used.fit else ()), used.note, used.calibration and used.calibration.line()]
    lines.append(no_sets(plan, opened.labelled) if used.sets is None else None)
    text += "".join(f"{line}\n" for line in lines if line)
    ensemble = {**asdict(main.ensemble), "disagreement": main.disagreement} if main else {}
    members = {name: asdict(score) for name, score in main.members.items() if name in plan.members} if main else {}
    members |= {name: asdict(one.score) for name, one in main.students.items()} if main else {}
    num_unreadable = {opened.data.submitted: len(splits[opened.data.submitted].unreadable)}
    return Results(text, ensemble, members, None, files, missing, None, num_unreadable, scores)


def _looks(record: RunRecord, opened: Opened, split: str) -> int:
    """Enters that a split was scored, and returns how many different answers to it were; 0 if that is not known."""
    used, students = opened.combination, opened.students.get(split, {}).values()
    digests = [one.about.sha256 for one in (*opened.members[split], *students)]
    corrected = [used.calibration] if used.calibration and used.calibration.is_taken else []
    answer = [used.method, used.weights, *digests, *corrected]
    store = record.stores.get(TARGET)
    return enter_look(Path(store), opened.data.digest, split, answer, record.run_id) if store else 0
