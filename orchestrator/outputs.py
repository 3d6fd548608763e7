"""Makes table, submission and report from stored predictions; needs no model, dataset or cluster."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from orchestrator.combine import (
    Combination,
    Combined,
    MemberPredictions,
    Missing,
    allowed_missing,
    equal,
    find_weights,
    left_out,
    open_predictions,
    without,
)
from orchestrator.config import CombineConfig, CombineMethod, SubmissionConfig
from orchestrator.plan import Plan
from orchestrator.report import Caveats, Evidence, SplitScores, score_split, table_text, write_report
from orchestrator.run import (
    Book,
    Committed,
    RunData,
    RunPaths,
    SubmissionDigests,
    find_finished,
    open_book,
    read_record,
    read_run_data,
    require_data,
    require_stage,
)
from orchestrator.submission import ask, find_manifest, write_submission
from workers.errors import ConfigError, DataError, MemberFailed
from workers.storage import Finished

_SEARCH_SPLIT = "dev"


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
    """A run's checked predictions by split and member, members sorted by name, and their combination."""

    data: RunData
    members: Mapping[str, tuple[MemberPredictions, ...]]
    finished: Mapping[str, Finished]
    combination: Combination

    def combined(self, split: str) -> Combined:
        return Combined(self.members[split], self.combination)


def write_results(
    paths: RunPaths, plan: Plan, combine: CombineConfig, submission: SubmissionConfig, book: Book | None = None
) -> Results:
    """Combines the stored predictions and writes submission and report. The caller holds the run directory's lock.

    `book` has the digests of what was committed and records those of the submission; by default the run's own.

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
    opened = open_results(paths, plan, combine.method, book.committed)
    combined, members = opened.combined(data.submitted), opened.members[data.submitted]
    digests = write_submission(paths.submission, submission, opened.data, combined, members, plan, missing, book)
    return replace(_report(paths, plan, opened, missing), submission=paths.submission / digests.file, digests=digests)


def rebuild_report(paths: RunPaths, plan: Plan, combine: CombineConfig) -> Results:
    """Writes the report again, combined like the last submission, or by `combine` if there is none.

    Raises:
        MemberFailed, CheckFailed: as `write_results`.
    """
    last = find_manifest(paths)
    missing = last.missing if last else ()
    plan = without(plan, missing)
    opened = open_results(paths, plan, last.method if last else combine.method, open_book(paths).committed)
    return _report(paths, plan, opened, missing)


def open_results(paths: RunPaths, plan: Plan, method: CombineMethod, committed: Committed) -> Opened:
    """Checks the predictions of the plan's members, also against what was `committed`, and fixes their combination.

    Raises:
        MemberFailed, CheckFailed: as `write_results`.
    """
    require_data(committed, paths.data)
    data = read_run_data(paths.data)
    finished = {member: _finished(paths, plan, member, committed) for member in plan.members}
    # Sorted, so that the order of members in the configuration changes no bit of the average.
    directories = {member: paths.predictions(member) for member in sorted(plan.members)}
    # Every split, also one that this combination does without: `septet verify` misses it too.
    members = {
        split: open_predictions(directories, data.splits[split], len(data.classes), data.digest, finished, committed)
        for split in data.splits
    }
    combination = equal(method, len(directories))
    if method is CombineMethod.weighted:
        searched_on, note = weighed_on(plan, members), None
        if searched_on != _SEARCH_SPLIT:
            note = "no images of dev: weights were searched on val, so its errors are too optimistic"
        if data.splits[searched_on].labels is None:
            raise DataError(f"{paths.data}: {searched_on} has no labels to find weights with; choose combine=mean")
        weights = find_weights(members[searched_on], data.labels(searched_on))
        combination = Combination(method, weights, searched_on, note)
    return Opened(data, members, finished, combination)


def weighed_on(plan: Plan, splits: Collection[str]) -> str:
    """Returns which of the held-out `splits` the weights of the plan's members are searched on.

    Raises:
        ConfigError: there is none, or a member is trained on it.
    """
    found = next((split for split in (_SEARCH_SPLIT, "val") if split in splits), None)
    if found is None or plan.refits:
        why = f"{', '.join(plan.refits)} trained on them" if plan.refits else "neither is held out"
        raise ConfigError(f"combine=weighted: searches on dev or val, and {why}; give combine=mean")
    return found


def score_splits(plan: Plan, opened: Opened) -> tuple[SplitScores, ...]:
    """Returns the scores of every labelled split that no member was trained on, the main one first."""
    scores = []
    for split in opened.data.scored:
        if plan.refits and split != "test":
            continue
        by_name = {one.member: one for one in opened.members[split]}
        members = {member: by_name[member] for member in plan.members}
        base, pretrained = plan.base_members(), plan.pretrained_members()
        scores.append(score_split(split, members, base, pretrained, opened.combined(split), opened.data.labels(split)))
    return tuple(scores)


def _report(paths: RunPaths, plan: Plan, opened: Opened, missing: tuple[Missing, ...]) -> Results:
    scores = score_splits(plan, opened)
    at_chance = tuple(member for member in plan.members if opened.finished[member].at_chance)
    # The table says it whatever is combined.
    splits, record = opened.data.splits, read_record(paths)
    unreadable = {name: [one.rows[row] for row in one.unreadable] for name, one in splits.items() if one.unreadable}
    looks = any(stage.recipe.picks_epochs(record.keep) or stage.recipe.schedule.looks for stage in plan.stages)
    first = {member: find_finished(paths, plan.ancestors(plan.last_stage(member))[0]) for member in plan.refits}
    refits = {member: None if found is None else found.val_error for member, found in first.items()}
    cuts_saw_val = (looks or bool(refits or plan.rungs)) and _SEARCH_SPLIT not in splits and "val" in splits
    caveats = Caveats(at_chance, cuts_saw_val, missing, unreadable, refits)
    predictions = {one.member: one for one in opened.members[opened.data.submitted]}
    files = write_report(paths, plan, record, Evidence(scores, predictions, caveats))
    main = scores[0] if scores else None
    text = table_text(main, caveats)
    if opened.combination.note:
        text += opened.combination.note + "\n"
    ensemble = {**asdict(main.ensemble), "disagreement": main.disagreement} if main else {}
    members = {name: asdict(score) for name, score in main.members.items()} if main else {}
    num_unreadable = {opened.data.submitted: len(splits[opened.data.submitted].unreadable)}
    return Results(text, ensemble, members, None, files, missing, None, num_unreadable)


def _finished(paths: RunPaths, plan: Plan, member: str, committed: Committed) -> Finished:
    """Reads DONE.json of the member's last stage; after an extension, an earlier stage's predictions may remain."""
    ref = plan.last_stage(member).ref
    finished = find_finished(paths, plan.last_stage(member))
    if finished is None:
        raise MemberFailed(f"{member}: its last stage {ref.stage} is not finished; run `septet launch` again")
    require_stage(committed, ref, paths.stage(ref), finished.checkpoint_sha256)
    return finished
