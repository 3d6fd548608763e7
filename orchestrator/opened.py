"""Opens the stored predictions of a run: checked, in an order of their own, and scored; needs no model or dataset."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from orchestrator.combine import (
    Combination,
    Combined,
    Expected,
    Flaw,
    MemberPredictions,
    OutOfFold,
    Rows,
    Source,
    blocks,
    check_predictions,
    equal,
    open_predictions,
    regrouped,
    top_classes,
)
from orchestrator.config import CombineConfig, CombineMethod, Metric
from orchestrator.fitting import LabelIssues, find_label_issues
from orchestrator.plan import Plan
from orchestrator.report import SplitScores, Valued, score_split
from orchestrator.run import (
    Committed,
    RunData,
    RunPaths,
    core_seconds,
    find_finished,
    read_ledger,
    read_record,
    read_run_data,
    require_data,
    require_stage,
)
from workers.errors import MemberFailed
from workers.settings import OUT_OF_FOLD
from workers.storage import Finished


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

    def ordered(self, members: Sequence[str], combination: Combination) -> "Opened":
        """Returns the same predictions in the order of `members`, to which `combination` belongs."""
        every = self.members.items()
        found = {split: tuple(sorted(own, key=lambda one: members.index(one.member))) for split, own in every}
        return replace(self, members=found, combination=combination)

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


def score_splits(plan: Plan, opened: Opened) -> tuple[SplitScores, ...]:
    """Returns the scores of every labelled split that no member was trained on, the main one first.

    A split that members from outside lack has the scores of the others.
    """
    scores = []
    for split in opened.data.scored:
        missing = split not in opened.members or (plan.refits and split != "test")
        if missing or (combined := opened.combined(split)) is None:
            continue
        # The objects that are combined: each is read once.
        members = dict(zip(opened.rows(split), combined.members, strict=True))
        base, pretrained = plan.base_members(), plan.pretrained_members()
        if split == OUT_OF_FOLD:
            base, pretrained = (tuple(dict.fromkeys(plan.voters[one] for one in own)) for own in (base, pretrained))
        own = opened.students.get(split, {})
        scores.append(score_split(split, members, base, pretrained, combined, opened.data.labels(split), own))
    return tuple(scores)


def find_issues(opened: Opened) -> LabelIssues | None:
    """Returns the training images whose label may be wrong; None without out-of-fold predictions of all of them."""
    combined = opened.combined(OUT_OF_FOLD) if OUT_OF_FOLD in opened.members else None
    return None if combined is None else find_label_issues(combined, opened.data.labels(OUT_OF_FOLD))


def errors_by_members(paths: RunPaths, opened: Opened, split: str) -> tuple[float, ...]:
    """Returns the top-1 errors of plain means of the first 1, 2, … members to finish; those from outside come first."""
    ledger, plan = read_ledger(paths.ledger), opened.plan
    attempts = {member: ledger.entry(plan.predict_job(member)).attempts for member in plan.trained}
    ended = {member: max((one.ended or 0.0 for one in own), default=0.0) for member, own in attempts.items()}
    order = sorted(opened.members[split], key=lambda one: ended.get(one.member, 0.0))
    labels, num_classes = opened.data.labels(split), len(opened.data.classes)
    num_wrong = np.zeros(len(order), np.int64)
    for part in blocks(len(labels), num_classes):
        total = np.zeros((len(labels[part]), num_classes))
        for place, member in enumerate(order):
            total += member[part]
            num_wrong[place] += np.count_nonzero(top_classes(total, 1)[:, 0] != labels[part])
    return tuple((num_wrong / len(labels)).tolist())


def value_members(paths: RunPaths, plan: Plan, opened: Opened, split: str, metric: Metric) -> Valued | None:
    """Returns what the members of a scored split are worth by `metric`, and their cost; None for one member."""
    from orchestrator.fitting import member_worth

    labels = opened.data.labels(split)
    worth = None if split == OUT_OF_FOLD else member_worth(opened.rows(split), labels, metric)
    if worth is None:
        return None
    costs = core_seconds(paths, plan, read_record(paths).numerics.threads)
    return Valued(split, len(labels), worth, costs)


def _finished(paths: RunPaths, plan: Plan, member: str, committed: Committed) -> Finished:
    """Reads DONE.json of the member's last stage; after an extension, an earlier stage's predictions may remain."""
    ref = plan.last_stage(member).ref
    finished = find_finished(paths, plan.last_stage(member))
    if finished is None:
        raise MemberFailed(f"{member}: its last stage {ref.stage} is not finished; run `septet launch` again")
    require_stage(committed, ref, paths.stage(ref), finished.checkpoint_sha256)
    return finished
