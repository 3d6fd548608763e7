"""Defines the configuration as typed, frozen values.

`*Layer` classes are the schema of what a person writes; the rest of the program reads `Config`. No Hydra here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from workers.errors import ConfigError
from workers.settings import (
    HELD_OUT,
    Crops,
    DatasetSettings,
    KeptCheckpoint,
    Recipe,
    TrainingSettings,
    Verify,
    require,
    require_least,
)

# Groups whose values an experiment may replace.
SETTINGS = ("model", "optimizer", "schedule", "augmentation", "init", "cluster", "tracking", "combine", "submission")
GROUPS = ("experiment", "dataset", "ensemble", *SETTINGS, "reading")
TARGET = "target"
_PREDICTED = (*HELD_OUT, "oof")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.=,-]{0,63}")
CombineMethod = StrEnum("CombineMethod", "mean weighted geometric rank greedy stacked")
# Methods that are fitted to predictions of held-out images.
FITTED = (CombineMethod.weighted, CombineMethod.greedy, CombineMethod.stacked)
Calibrator = StrEnum("Calibrator", "none temperature vector isotonic")
# Scores of conformal prediction: adaptive sets, and with a penalty on places.
SetScore = StrEnum("SetScore", "raps aps")
SubmissionFormat = StrEnum("SubmissionFormat", "ilsvrc tiny_imagenet labels probabilities kaggle_loc")
Precision = StrEnum("Precision", "auto fp32 bf16 tf32 fp16")
Compile = StrEnum("Compile", "auto off")
# The compiled kernels of `workers`: where all machines have them or those that do are enough, only there, nowhere.
Kernels = StrEnum("Kernels", "auto compiled plain")
SweepStop = StrEnum("SweepStop", "none halving")
# By what a fit is chosen and members are judged; the definitions are scikit-learn's.
Metric = StrEnum("Metric", "top1 top5 log_loss brier macro_f1 balanced_accuracy auc qwk")
# Is written in place of a number that the program chooses.
Auto = StrEnum("Auto", "auto")


@dataclass(frozen=True)
class StoresLayer:
    """Holds the keys below `datasets` that are not datasets: where all of them are prepared, copied and verified.

    `entire` holds out no image but the target's val; where a plateau is left with nothing to look at, it cuts at its
    `latest` shares.
    """

    store: str = "~/.cache/septet"
    local_copy: str | None = None
    verify: Verify = Verify.changed
    entire: bool = False


BESIDE_DATASETS = tuple(each.name for each in fields(StoresLayer))


@dataclass(frozen=True)
class ClusterLayer:
    """Holds what a person writes about the cluster; with `address` None the run starts a local Ray.

    `max_failures` limits the attempts of a stage that end in an error, `max_losses` those that lose their process or
    node. A member that makes no progress for `progress_timeout_s` seconds is ended. `kernels` is about CPUs. A launch
    of which no member has a machine waits `wait_s` seconds for one, None for ever. `ship_code` sends nodes the code.
    `workers_per_member` are the fewest and the most workers that compute a member's shards together.
    """

    address: str | None = None
    cpus_per_member: int | Auto = Auto.auto
    gpus_per_member: float = 0.0
    max_failures: int = 3
    max_losses: int = 20
    progress_timeout_s: float = 900.0
    kernels: Kernels = Kernels.auto
    wait_s: float | None = None
    ship_code: bool = False
    workers_per_member: tuple[int, ...] = (1, 1)

    def __post_init__(self) -> None:
        gpus, timeout_s = self.gpus_per_member, self.progress_timeout_s
        if isinstance(self.cpus_per_member, int):
            require_least(self, 1, "cpus_per_member")
        in_parts = 0 <= gpus <= 1 or (gpus > 1 and gpus % 1 == 0)
        require(in_parts, f"gpus_per_member={gpus}: give a share of one GPU or a whole number of them")
        require_least(self, 0, "max_failures", "max_losses")
        require(timeout_s > 0, f"progress_timeout_s={timeout_s}: give seconds, more than 0")
        unread = f"kernels={self.kernels}: only members on CPUs use them; remove it, or gpus_per_member"
        require(not gpus or self.kernels is Kernels.auto, unread)
        wait_s = self.wait_s
        require(wait_s is None or wait_s >= 0, f"wait_s={wait_s}: give seconds, or null to wait for ever")
        given = f"workers_per_member=[{','.join(map(str, self.workers_per_member))}]"
        in_order = len(self.workers_per_member) == 2 and 1 <= self.workers_per_member[0] <= self.workers_per_member[1]
        require(in_order, f"{given}: give the fewest and the most, as in [1,4]")
        shares = f"{given}: workers of one member need a whole GPU each; give cluster.gpus_per_member=1"
        require(self.workers_per_member[-1] == 1 or not 0 < gpus < 1, shares)


@dataclass(frozen=True)
class ClusterConfig(ClusterLayer):
    """Holds the cluster settings in use; until a member's CPUs are chosen, `choose_cpus` is true and they are 1."""

    cpus_per_member: int = 1
    choose_cpus: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        # Not before a Ray job's address is known.
        for name in ("wait_s", "ship_code"):
            if getattr(self, name) not in (None, False) and self.address is None:
                unread = "only a cluster at an address reads it; give cluster.address, or remove it"
                raise ConfigError(f"cluster.{name}={getattr(self, name)}: {unread}")


@dataclass(frozen=True)
class TrackingLayer:
    """Holds what a person writes; `uri` None means MLFLOW_TRACKING_URI, else a SQLite file in the working directory."""

    uri: str | None = None
    required: bool = True
    models: bool = False
    register: str | None = None


@dataclass(frozen=True)
class TrackingConfig(TrackingLayer):
    """Holds the tracking settings in use; `uri` is absolute."""

    uri: str = ""


@dataclass(frozen=True)
class CombineConfig:
    """Says how members are combined; those in `without` are trained, and left out of the ensemble.

    `weights` are of members by name; others have 1. `calibration` corrects the combined probabilities; `sets` hold the
    right class with probability `coverage`.
    """

    method: CombineMethod = CombineMethod.mean
    without: tuple[str, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    calibration: Calibrator = Calibrator.none
    coverage: float = 0.9
    sets: SetScore = SetScore.raps

    def __post_init__(self) -> None:
        require(0 < self.coverage < 1, f"coverage={self.coverage}: give a share between 0 and 1, such as 0.9")
        for name, weight in self.weights.items():
            is_one = isinstance(weight, int | float) and not isinstance(weight, bool) and 0 <= weight < float("inf")
            require(is_one, f"weights.{name}={weight}: give a number, 0 or more")
        fits = f"weights: {self.method} finds its own; remove them, or give combine=mean, geometric or rank"
        require(not self.weights or self.method not in FITTED, fits)


@dataclass(frozen=True)
class SubmissionConfig:
    """Names a sample submission to follow (`template`), and a file with one `<class> <id>` a line (`class_ids`).

    A submission is written without the members that failed if at least `min_members` are left; None requires all.
    """

    format: SubmissionFormat = SubmissionFormat.labels
    template: str | None = None
    class_ids: str | None = None
    min_members: int | None = None

    def __post_init__(self) -> None:
        if self.min_members is not None:
            require_least(self, 1, "min_members")


@dataclass(frozen=True)
class FoldsConfig:
    """Says how the target's training images are divided, `repeats` times into `k` folds.

    `groups` is a column of the target's csv file, or a csv file `id,group`: images of a group are in one fold. `file`
    is a csv file `id,fold` with folds 0 … k − 1 made elsewhere.
    """

    k: int = 5
    repeats: int = 1
    groups: str | None = None
    file: str | None = None

    def __post_init__(self) -> None:
        require(2 <= self.k <= 1000, f"k={self.k}: give 2 … 1000 folds")
        require(1 <= self.repeats <= 100, f"repeats={self.repeats}: give 1 … 100")
        alone = self.file is None or (self.groups is None and self.repeats == 1)
        require(alone, f"file={self.file}: has one division into folds; leave out folds.groups and folds.repeats")


@dataclass(frozen=True)
class PredictConfig:
    checkpoint: KeptCheckpoint = KeptCheckpoint.last
    crops: Crops = Crops.ten


@dataclass(frozen=True)
class BudgetConfig:
    """Limits a launch: before it is `hours` old, it checkpoints and stops; None means never."""

    hours: float | None = None

    def __post_init__(self) -> None:
        require(self.hours is None or self.hours > 0, f"hours={self.hours}: give hours, more than 0, or null")


@dataclass(frozen=True)
class StageLayer(Recipe):
    """Holds what a person writes about a stage: its recipe, and `epochs` as a short form of `schedule.epochs`."""

    epochs: int | None = None


@dataclass(frozen=True)
class MemberLayer(TrainingSettings):
    """Holds what a person writes about a member; it overrides the groups."""

    seed: int | None = None
    stages: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.seed is not None:
            require_least(self, 0, "seed")


@dataclass(frozen=True)
class OutsideLayer:
    """Holds what a person writes about a member without stages: files of its probabilities by split."""

    predictions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for split, path in self.predictions.items():
            require(split in _PREDICTED, f"predictions.{split}: no such split; known: {', '.join(_PREDICTED)}")
            ends_well = path.lower().endswith((".csv", ".npy", ".parquet"))
            require(ends_well, f"predictions.{split}={path}: give a file that ends in .csv, .npy or .parquet")


@dataclass(frozen=True)
class AdmitConfig:
    """Says when the other members of a recipe are not trained: one more surely gains less than `worth`; None never.

    `worth` is in the loss of the run's metric. `confidence` is that of the gain's interval, two-sided.
    """

    worth: float | None = None
    confidence: float = 0.9

    def __post_init__(self) -> None:
        worth, confidence = self.worth, self.confidence
        require(worth is None or worth >= 0, f"worth={worth}: give 0 or more of the metric's loss, or null")
        require(0 < confidence < 1, f"confidence={confidence}: give a share between 0 and 1, as in 0.9")
        unread = f"confidence={confidence}: only ensemble.admit.worth reads it; give that too, or remove it"
        require(worth is not None or confidence == AdmitConfig.confidence, unread)


@dataclass(frozen=True)
class EnsembleLayer:
    """Holds members by name, defaults for all stages of one name (`stages`), and the member that a sweep copies.

    With `folded`, there is a member for each of them and each fold.
    """

    members: Mapping[str, Any] = field(default_factory=dict)
    stages: Mapping[str, Any] = field(default_factory=dict)
    template: Mapping[str, Any] | None = None
    admit: AdmitConfig = AdmitConfig()
    folded: bool = False


@dataclass(frozen=True)
class RootLayer(TrainingSettings):
    """Holds the whole configuration as a person writes it."""

    experiment: str = ""
    name: str | None = None
    seed: int = 0
    run_dir: str | None = None
    datasets: Mapping[str, Any] = field(default_factory=dict)
    ensemble: EnsembleLayer = EnsembleLayer()
    sweep: Mapping[str, Any] = field(default_factory=dict)
    cluster: ClusterLayer = ClusterLayer()
    tracking: TrackingLayer = TrackingLayer()
    combine: CombineConfig = CombineConfig()
    submission: SubmissionConfig = SubmissionConfig()
    predict: PredictConfig = PredictConfig()
    metric: Metric | Auto = Auto.auto
    checkpoint_updates: int = 200
    precision: Precision = Precision.auto
    compile: Compile = Compile.auto
    sweep_stop: SweepStop = SweepStop.none
    sweep_rungs: int = 2
    sweep_eta: int = 3
    folds: FoldsConfig = FoldsConfig()
    budget: BudgetConfig = BudgetConfig()

    def __post_init__(self) -> None:
        halves = self.sweep_stop is SweepStop.halving
        for name, least, usual in (("sweep_rungs", 1, 2), ("sweep_eta", 2, 3)):
            require_least(self, least, name)
            value = getattr(self, name)
            require(halves or value == usual, f"{name}={value}: only sweep_stop=halving reads it; remove it")
        alone = self.ensemble.template is not None and not self.ensemble.members
        for one in fields(FoldsConfig):
            given = getattr(self.folds, one.name)
            unread = f"folds.{one.name}={given}: only ensemble=folds (or ensemble.folded=true) reads it; remove it"
            require(self.ensemble.folded or given == one.default, unread)
        rungs = "sweep_stop=halving: compares points by dev, and members of folds are not alike; give sweep_stop=none"
        require(not (halves and self.ensemble.folded), rungs)
        require(alone or not halves, "sweep_stop=halving: compares the points of a sweep alone; give ensemble=sweep")
        require_least(self, 0, "seed")
        require_least(self, 1, "checkpoint_updates")
        on_gpus = self.cluster.gpus_per_member > 0
        of_gpus = f"precision={self.precision}: only NVIDIA GPUs have it; give fp32, or cluster.gpus_per_member=1"
        require(on_gpus or self.precision not in (Precision.tf32, Precision.fp16), of_gpus)


@dataclass(frozen=True)
class MemberConfig:
    """Describes one member; with `seed` None it uses the run's seed.

    One from outside has no stages, but files of `predictions` by split.
    """

    name: str
    seed: int | None
    stages: Mapping[str, Recipe]
    predictions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Config:
    """Holds the checked configuration of a run; `yaml` is its composed text, with references left unresolved.

    `name` names the run directory and the MLflow experiment. `command` is the command line that means it, typed in
    `directory`; empty if it was read from a run. `notes` are lines to show: what was typed and does not hold.
    `sweep_rungs` is 0 unless a sweep is halved, and `folds` is None unless members are trained in folds. By default
    run directories lie in `runs`.
    """

    experiment: str
    name: str
    seed: int
    run_dir: str | None
    store: Path
    datasets: Mapping[str, DatasetSettings]
    members: Mapping[str, MemberConfig]
    tracking: TrackingConfig
    cluster: ClusterConfig
    combine: CombineConfig
    submission: SubmissionConfig
    predict: PredictConfig
    metric: Metric
    checkpoint_updates: int
    precision: Precision
    compile: Compile
    verify: Verify
    local_copy: Path | None = None
    sweep_rungs: int = 0
    sweep_eta: int = 3
    entire: bool = False
    admit: AdmitConfig = AdmitConfig()
    folds: FoldsConfig | None = None
    runs: Path = Path("runs")
    budget: BudgetConfig = BudgetConfig()
    yaml: str = field(default="", repr=False, compare=False)
    command: tuple[str, ...] = field(default=(), repr=False, compare=False)
    directory: str = field(default="", repr=False, compare=False)
    notes: tuple[str, ...] = field(default=(), repr=False, compare=False)


def default_run_dir(name: str, plan_hash: str, runs: Path = Path("runs")) -> Path:
    """Returns the run directory that is used when `run_dir` is not given; `runs` is `Config.runs`."""
    return runs / f"{name}-{plan_hash[:8]}"


def metric_of(submission_format: SubmissionFormat) -> Metric:
    """Returns the metric by which submissions of this format are usually scored."""
    if submission_format is SubmissionFormat.probabilities:
        return Metric.log_loss
    several = submission_format in (SubmissionFormat.ilsvrc, SubmissionFormat.kaggle_loc)
    return Metric.top5 if several else Metric.top1


def check_safe_name(kind: str, name: str, key: str) -> None:
    """Raises ConfigError if `name` is not a folder name that needs no quoting; `kind` names it in the message."""
    if _NAME.fullmatch(name) is None:
        raise ConfigError(
            f"{key}: a {kind}'s name has 1 to 64 letters, digits or _ . = , - and starts with a letter or digit"
        )
