"""Makes table, submission and report from stored predictions; needs no model, dataset or cluster."""

import itertools
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from orchestrator.combine import (
    Combination,
    Combined,
    Expected,
    Flaw,
    MemberPredictions,
    Missing,
    OutOfFold,
    Rows,
    Source,
    allowed_missing,
    check_predictions,
    equal,
    fitting_split,
    left_out,
    no_sets,
    open_predictions,
    regrouped,
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
from orchestrator.fitting import LabelIssues, find_label_issues
from orchestrator.plan import Plan
from orchestrator.report import (
    Caveats,
    Evidence,
    SplitScores,
    Valued,
    drop_note,
    metric_told,
    score_split,
    table_text,
    write_report,
    write_review,
)
from orchestrator.run import (
    Book,
    Committed,
    RunData,
    RunPaths,
    RunRecord,
    SubmissionDigests,
    core_seconds,
    enter_look,
    find_finished,
    open_book,
    read_record,
    read_run_data,
    require_data,
    require_stage,
)
from orchestrator.submission import ask, find_manifest, write_submission
from workers.errors import DataError, MemberFailed
from workers.settings import OUT_OF_FOLD
from workers.storage import Finished, parse_json

_RANK_BY_AUC = "combine=rank orders the classes of each image, and auc the images of each class; combine=mean suits it."


@dataclass(frozen=True)
class Results:
    """A run's results: the table as text, the ensemble's scores by their names in scores.json, and files.

    `members` are each member's scores; `files` are the report's; `submission` and `digests` are None if only the report
    was made. `missing` are members that the run does without; `num_unreadable` counts rows of the submission's split.
    """

    table_text: str
    ensemble: Mapping[str, float]
    members: Mapping[str, Mapping[str, float]]
    submission: Path | None
    files: tuple[Path, ...]
    missing: tuple[Missing, ...] = ()
    digests: SubmissionDigests | None = None
    num_unreadable: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Opened:
    """A run's checked predictions by split and member, and their combination.

    In every split the members are sorted by the sha256 of their predictions of the submitted one, so that neither their
    names nor their order in the configuration change a bit of the result. Members from outside may lack other splits.
    `plan` is of these members. `students` are the predictions of those that learned from them, by split and name.
    """

    data: RunData
    members: Mapping[str, tuple[MemberPredictions, ...]]
    finished: Mapping[str, Finished]
    combination: Combination
    plan: Plan
    students: Mapping[str, Mapping[str, MemberPredictions]] = field(default_factory=dict)

    def combined(self, split: str) -> Combined | None:
        """Returns the combination of all members or, if some lack the split, of the others, where that makes sense."""
        all_members, held = self.members[self.data.submitted], {one.member for one in self.members[split]}
        places = [place for place, one in enumerate(all_members) if one.member in held]
        whole = len(places) == len(all_members)
        combination = self._of(split) if whole else self.combination.among(places)
        return None if combination is None else Combined(tuple(self.rows(split).values()), combination)

    def rows(self, split: str) -> dict[str, Rows]:
        """Returns the probabilities of a split by member; of oof by voter, each put together from its members."""
        members = self.members[split]
        if split != OUT_OF_FOLD:
            return {one.member: one for one in members}
        rows = [self.data.rows_of(self.plan.fold(one.member)) for one in members]
        num_rows = len(self.data.splits[split].rows)
        return {
            name: OutOfFold([members[place] for place in own], [rows[place] for place in own], num_rows)
            for name, own in self._voters.items()
        }

    def fitted(self, method: CombineMethod, metric: Metric, split: str) -> Combination:
        """Returns the combination of the members that `method` finds on a labelled split."""
        # Imported here, since scikit-learn takes a second.
        from orchestrator.fitting import choose

        plain = equal(CombineMethod.mean, len(self.members[split]))
        given = (tuple(self.rows(split).values()), self.data.labels(split), metric, split)
        found = choose(method, *given, replace(self, combination=plain)._of(split))
        if found.fit is None or not found.fit.is_taken:
            return replace(plain, fit=found.fit, note=found.note)
        if split != OUT_OF_FOLD:
            return found
        # Each member has an equal part of its voter's weight.
        shares = {place: {voter: 1 / len(own)} for voter, own in enumerate(self._voters.values()) for place in own}
        return regrouped(found, [shares[place] for place in sorted(shares)])

    def calibrated(self, combine: CombineConfig, split: str) -> Combination:
        """Returns the combination with the calibration and the sets that are found on a labelled split."""
        # Imported here, since scikit-learn takes a second.
        from orchestrator.fitting import calibrate

        found = calibrate(self._of(split), combine, tuple(self.rows(split).values()), self.data.labels(split), split)
        return replace(self.combination, calibration=found.calibration, sets=found.sets)

    def _of(self, split: str) -> Combination:
        """Returns the combination of `rows`."""
        if split != OUT_OF_FOLD:
            return self.combination
        return regrouped(self.combination, [dict.fromkeys(own, 1.0) for own in self._voters.values()])

    @property
    def _voters(self) -> dict[str, list[int]]:
        """The places of each voter's members."""
        found: dict[str, list[int]] = {}
        for place, one in enumerate(self.members[OUT_OF_FOLD]):
            found.setdefault(self.plan.voters[one.member], []).append(place)
        return found

    @property
    def labelled(self) -> tuple[str, ...]:
        return tuple(split for split in self.data.labelled if split in self.members)


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
    return replace(results, submission=paths.submission / digests.file, digests=digests)


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
        place = {one.name: index for index, one in enumerate(last.members)}
        members = {
            split: tuple(sorted(every, key=lambda one: place[one.member])) for split, every in opened.members.items()
        }
        opened = replace(opened, members=members, combination=last.combination)
    with suppress(OSError, ValueError):
        metric = metric_told(parse_json(paths.report_scores.read_bytes())) or metric
    return _report(paths, plan, opened, missing, metric)


def open_members(paths: RunPaths, plan: Plan, committed: Committed) -> Opened:
    """Checks the predictions of the plan's members, also against what was `committed`; they are not combined yet.

    Raises:
        MemberFailed, CheckFailed: as `write_results`.
    """
    require_data(committed, paths.data)
    data = read_run_data(paths.data)
    finished = {member: _finished(paths, plan, member, committed) for member in plan.trained}
    members = {}
    # Every split, also one that this combination does without: `septet verify` misses it too.
    for split in opened_splits(plan, data):
        sources: dict[str, Source] = {**finished}
        sources |= {member: files[split] for member, files in plan.outside.items() if split in files}
        directories = {member: paths.predictions(member) for member in plan.members if member in sources}
        parts = {member: data.part(split, plan.fold(member)) for member in directories}
        whole, num_classes = data.splits[split], len(data.classes)
        members[split] = open_predictions(directories, whole, num_classes, data.digest, sources, committed, parts)
    if data.submitted not in members:
        raise MemberFailed(f"{paths.root}: no submission: without test and val, it needs the members of all folds")
    digests = {one.member: one.about.sha256 for one in members[data.submitted]}
    ordered = {
        split: tuple(sorted(every, key=lambda one: (digests[one.member], one.member)))
        for split, every in members.items()
    }
    students = _open_students(paths, plan, data, committed)
    return Opened(data, ordered, finished, equal(CombineMethod.mean, len(plan.members)), plan, students)


def _open_students(
    paths: RunPaths, plan: Plan, data: RunData, committed: Committed
) -> dict[str, dict[str, MemberPredictions]]:
    """Returns the predictions that finished students have; the ensemble does not need them."""
    found: dict[str, dict[str, MemberPredictions]] = {split: {} for split in data.splits}
    done = [name for name in plan.students if find_finished(paths, plan.last_stage(name))]
    for name, split in itertools.product(done, data.splits):
        finished, recorded = _finished(paths, plan, name, committed), committed.of_predictions(name, split)
        expected = Expected(data.digest, data.splits[split], len(data.classes), finished, recorded)
        one = check_predictions(name, paths.predictions(name), split, expected)
        if isinstance(one, MemberPredictions):
            found[split][name] = one
        elif one.flaw in (Flaw.damaged, Flaw.altered):
            raise one.error
    return found


def opened_splits(plan: Plan, data: RunData) -> tuple[str, ...]:
    """Returns the splits of which the plan's members have predictions of every image."""
    return tuple(split for split in data.splits if split != OUT_OF_FOLD or plan.is_covered)


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


def score_splits(plan: Plan, opened: Opened) -> tuple[SplitScores, ...]:
    """Returns the scores of every labelled split that no member was trained on, the main one first.

    A split that members from outside lack has the scores of the others.
    """
    scores = []
    for split in opened.data.scored:
        missing = split not in opened.members or (plan.refits and split != "test")
        if missing or (combined := opened.combined(split)) is None:
            continue
        members = opened.rows(split)
        base, pretrained = plan.base_members(), plan.pretrained_members()
        if split == OUT_OF_FOLD:
            base, pretrained = (tuple(dict.fromkeys(plan.voters[one] for one in own)) for own in (base, pretrained))
        own = opened.students.get(split, {})
        scores.append(score_split(split, members, base, pretrained, combined, opened.data.labels(split), own))
    return tuple(scores)


def find_issues(opened: Opened) -> LabelIssues | None:
    """Returns the training images whose label looks wrong; None without out-of-fold predictions of all of them."""
    combined = opened.combined(OUT_OF_FOLD) if OUT_OF_FOLD in opened.members else None
    return None if combined is None else find_label_issues(combined, opened.data.labels(OUT_OF_FOLD))


def value_members(paths: RunPaths, plan: Plan, opened: Opened, split: str, metric: Metric) -> Valued | None:
    """Returns what the members of a scored split are worth by `metric`, and their cost; None for one member."""
    from orchestrator.fitting import member_worth

    labels = opened.data.labels(split)
    worth = None if split == OUT_OF_FOLD else member_worth(opened.rows(split), labels, metric)
    if worth is None:
        return None
    costs = core_seconds(paths, plan, read_record(paths).numerics.threads)
    return Valued(split, len(labels), worth, costs)


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
    review = write_review(paths, record, opened.data, issues) if (issues := find_issues(opened)) else None
    said = review.line if review else ""
    notes = (missing, unreadable, refits, looks, partial, unscored, drop, out_of_fold, said)
    caveats = Caveats(at_chance, cuts_saw_val, *notes)
    predictions = {one.member: one for one in opened.members[opened.data.submitted]}
    files = write_report(paths, plan, record, Evidence(scores, predictions, caveats, worth, review))
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
    return Results(text, ensemble, members, None, files, missing, None, num_unreadable)


def _looks(record: RunRecord, opened: Opened, split: str) -> int:
    """Enters that a split was scored, and returns how many different answers to it were; 0 if that is not known."""
    used, students = opened.combination, opened.students.get(split, {}).values()
    digests = [one.about.sha256 for one in (*opened.members[split], *students)]
    corrected = [used.calibration] if used.calibration and used.calibration.is_taken else []
    answer = [used.method, used.weights, *digests, *corrected]
    store = record.stores.get(TARGET)
    return enter_look(Path(store), opened.data.digest, split, answer, record.run_id) if store else 0


def _finished(paths: RunPaths, plan: Plan, member: str, committed: Committed) -> Finished:
    """Reads DONE.json of the member's last stage; after an extension, an earlier stage's predictions may remain."""
    ref = plan.last_stage(member).ref
    finished = find_finished(paths, plan.last_stage(member))
    if finished is None:
        raise MemberFailed(f"{member}: its last stage {ref.stage} is not finished; run `septet launch` again")
    require_stage(committed, ref, paths.stage(ref), finished.checkpoint_sha256)
    return finished
