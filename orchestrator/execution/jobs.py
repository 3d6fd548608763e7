"""Holds the inputs of a driver, and finds the predictions that are already on disk."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.cluster import Completed, Predicted, Trained
from orchestrator.combine import Expected, Invalid, check_predictions
from orchestrator.config import TARGET, AdmitConfig, Metric
from orchestrator.plan import Job, Plan, Stage, StageRef, Widths, normalised_as
from orchestrator.run import Budgets, Committed, RunPaths, find_finished, from_kept_code
from workers.errors import DataError
from workers.protocol import HeldFold, Normaliser, Numerics, PredictSpec, StageSpec, Teacher
from workers.settings import OUT_OF_FOLD, Crops, Decay, KeptCheckpoint, Recipe
from workers.storage import layout, read_finished


@dataclass(frozen=True)
class Work:
    """Holds everything that a driver needs to train and predict.

    `stores` are the prepared datasets by name, `target_digest` is the digest of the target's store. Members predict
    `splits`. `local_copy` is the folder of each node for copies of the stores, or None. `shorter` is as in run.json.
    By `admit` and `metric` members are ended, but for those in `without`, which no ensemble has. Workers must have the
    `code` of that digest. `hours` are the launch's budget. Members have `widths`.
    """

    paths: RunPaths
    plan: Plan
    stores: Mapping[str, Path]
    target_digest: str
    splits: tuple[str, ...]
    numerics: Numerics
    keep: KeptCheckpoint
    checkpoint_updates: int
    budgets: Budgets
    crops: Crops = Crops.ten
    local_copy: Path | None = None
    progress_timeout_s: float = 900.0
    shorter: Mapping[str, Sequence[str]] = field(default_factory=dict)
    admit: AdmitConfig = field(default_factory=AdmitConfig)
    metric: Metric = Metric.top1
    without: tuple[str, ...] = ()
    code: str = ""
    wait_s: float | None = None
    hours: float | None = None
    widths: Widths = field(default_factory=Widths)

    def stage_spec(self, stage: Stage, attempt: int, fence: str = "") -> StageSpec:
        """Returns the specification by which an actor trains `stage`.

        Raises:
            DataError: an earlier release trained what it refits, and did not record the best epoch.
            MemberFailed, CheckFailed: predictions that it learns from are missing or damaged.
        """
        recipe, until = stage.recipe, 0
        if stage.refit is not None:
            recipe, until = _found(recipe, self.paths.stage(stage.refit))
        return StageSpec(
            member=stage.ref.member,
            stage=stage.ref.stage,
            seed=stage.seed,
            recipe=from_kept_code(self.paths, recipe),
            store=self.stores[stage.recipe.dataset],
            stage_dir=self.paths.stage(stage.ref),
            init_dir=None if stage.init_from is None else self.paths.stage(stage.init_from),
            numerics=self.numerics,
            checkpoint_updates=self.checkpoint_updates,
            keep=self.keep,
            stage_hash=stage.hash,
            attempt=attempt,
            init_file=stage.init_file,
            local_copy=self.local_copy,
            fence=fence,
            shorter=tuple(self.shorter.get(str(stage.ref), ())),
            normaliser=normaliser(self.plan, stage, self.stores),
            until=until,
            fold=self._fold(recipe),
            teachers=tuple(sorted(map(self._teacher, stage.teachers), key=lambda one: one.sha256)),
            code=self.code,
        )

    def predict_spec(self, member: str, fence: str = "") -> PredictSpec:
        """Returns the specification by which an actor predicts as `member`."""
        last = self.plan.last_stage(member)
        return PredictSpec(
            member=member,
            stage_dir=self.paths.stage(last.ref),
            store=self.stores[TARGET],
            predictions_dir=self.paths.predictions(member),
            splits=self.splits_of(member),
            recipe=from_kept_code(self.paths, last.recipe),
            numerics=self.numerics,
            crops=self.crops,
            local_copy=self.local_copy,
            fence=fence,
            normaliser=normaliser(self.plan, last, self.stores),
            fold=self._fold(last.recipe),
            code=self.code,
            # One member is enough for the report.
            neighbours=10_000 if member == next(one for one in self.plan.trained if one not in self.without) else 0,
        )

    def splits_of(self, member: str) -> tuple[str, ...]:
        """Returns what `member` predicts: its own fold's images too."""
        return (*self.splits, OUT_OF_FOLD) if self.plan.fold(member).k else self.splits

    def _fold(self, recipe: Recipe) -> HeldFold | None:
        own = recipe.fold
        return HeldFold(self.stores[TARGET], self.paths.data / layout.FOLDS, own.number, own.repeat) if own.k else None

    def _teacher(self, ref: StageRef) -> Teacher:
        fold, folder = self._fold(self.plan.stage(ref).recipe), self.paths.predictions(ref.member)
        assert fold is not None, "the plan takes teachers from folds"
        found = check_predictions(ref.member, folder, OUT_OF_FOLD, Expected(self.target_digest), read=False)
        if isinstance(found, Invalid):
            raise found.error
        return Teacher(found.path, found.about.sha256, fold)


def normaliser(plan: Plan, stage: Stage, stores: Mapping[str, Path]) -> Normaliser | None:
    """Returns the normalisation that `stage` has from its ancestors or from published weights; None if its own."""
    origin = normalised_as(stage, plan.by_ref)
    scale = origin.init_file.scale if origin.init_file else ()
    if origin.ref == stage.ref and not scale:
        return None
    return Normaliser(origin.recipe.augmentation.normalisation, stores[origin.recipe.dataset], scale)


def _found(recipe: Recipe, stage_dir: Path) -> tuple[Recipe, int]:
    """Returns `recipe` with the cuts that the stage in `stage_dir` made, and the epochs that were best there."""
    first, schedule = read_finished(stage_dir), replace(recipe.schedule, stop_when_stalled=False)
    if first.best_epochs is None:
        raise DataError(f"{stage_dir}: an earlier release trained it and recorded no best epoch; give another run_dir")
    if schedule.decay is Decay.plateau:
        shares = tuple(epoch / schedule.epochs for epoch in first.cut_at)
        schedule = replace(schedule, decay=Decay.fixed, cuts=len(shares), latest=shares)
    return replace(recipe, schedule=schedule), first.best_epochs


def has_predicted(work: Work, committed: Committed, member: str) -> bool:
    """Returns whether a member's last stage is done, and its predictions of every split are valid."""
    finished = find_finished(work.paths, work.plan.last_stage(member))
    if finished is None:
        return False
    for split in work.splits_of(member):
        expected = Expected(work.target_digest, finished=finished, committed=committed.of_predictions(member, split))
        if isinstance(check_predictions(member, work.paths.predictions(member), split, expected), Invalid):
            return False
    return True


def results_of(
    completed: Iterable[Completed], jobs: Mapping[str, Job], until: Callable[[StageRef], int]
) -> tuple[dict[StageRef, str], dict[str, dict[str, str]]]:
    """Returns digests of checkpoints by stage, but for those `until` a rung, and of predictions by member and split."""
    ended = [(jobs[one.member].ref, one.outcome) for one in completed]
    stages = {ref: of.result.checkpoint_sha256 for ref, of in ended if isinstance(of, Trained) and not until(ref)}
    splits = {ref.member: of.splits for ref, of in ended if isinstance(of, Predicted)}
    return stages, {member: {one.split: one.sha256 for one in own} for member, own in splits.items()}
