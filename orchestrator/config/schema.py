"""The configuration as typed, frozen values: what `orchestrator.config.composition` checks against and hands out.

`*Layer` classes are the schema of what a person writes; `Config` is what the rest of the program reads. No Hydra here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from workers.settings import Crops, DatasetSettings, KeptCheckpoint, TrainingSettings

GROUPS = (
    "experiment",
    "dataset",
    "ensemble",
    "model",
    "optimizer",
    "schedule",
    "augmentation",
    "init",
    "cluster",
    "tracking",
    "combine",
    "submission",
    "reading",
)
TARGET = "target"
# What stands among the datasets and is none.
BESIDE_DATASETS = ("store", "local_copy")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.=,-]{0,63}")


class CombineMethod(StrEnum):
    """How members' probabilities become the ensemble's."""

    mean = "mean"
    weighted = "weighted"
    geometric = "geometric"


class SubmissionFormat(StrEnum):
    """The layout of the submission file."""

    ilsvrc = "ilsvrc"
    tiny_imagenet = "tiny_imagenet"
    labels = "labels"
    probabilities = "probabilities"
    kaggle_loc = "kaggle_loc"


class Precision(StrEnum):
    """The arithmetic of forward and backward passes."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class Auto(StrEnum):
    """Stands for a number that the program chooses."""

    auto = "auto"


@dataclass(frozen=True)
class ClusterLayer:
    """As written: where members run and what each may use; `address` None is a local Ray of the run's own.

    `max_failures` bounds the attempts of a stage that end in its own error, `max_losses` those whose process or node
    was lost. `progress_timeout_s`: how long a member may be alive and make no progress.
    """

    address: str | None = None
    cpus_per_member: int | Auto = Auto.auto
    gpus_per_member: float = 0.0
    max_failures: int = 3
    max_losses: int = 20
    progress_timeout_s: float = 900.0

    def __post_init__(self) -> None:
        if isinstance(self.cpus_per_member, int) and self.cpus_per_member < 1:
            raise ValueError(f"cpus_per_member={self.cpus_per_member}: give 1 or more")
        gpus = self.gpus_per_member
        if gpus < 0 or (gpus > 1 and not float(gpus).is_integer()):
            raise ValueError(f"gpus_per_member={gpus}: give a share of one GPU or a whole number of them")
        for name in ("max_failures", "max_losses"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: give 0 or more")
        if not self.progress_timeout_s > 0:
            raise ValueError(f"progress_timeout_s={self.progress_timeout_s}: give seconds, more than 0")


@dataclass(frozen=True)
class ClusterConfig:
    """As used: while the CPUs of a member are still to be chosen, `choose_cpus` is true and they count as one."""

    address: str | None = None
    cpus_per_member: int = 1
    gpus_per_member: float = 0.0
    max_failures: int = 3
    max_losses: int = 20
    choose_cpus: bool = False
    progress_timeout_s: float = 900.0


@dataclass(frozen=True)
class TrackingLayer:
    """As written: `uri` None means MLFLOW_TRACKING_URI, else a SQLite file in the working directory."""

    uri: str | None = None
    required: bool = True


@dataclass(frozen=True)
class TrackingConfig:
    """As used: `uri` is absolute."""

    uri: str
    required: bool


@dataclass(frozen=True)
class CombineConfig:
    method: CombineMethod = CombineMethod.mean


@dataclass(frozen=True)
class SubmissionConfig:
    """`template` is a sample submission to follow; `class_ids` a file with one `<class> <id>` a line.

    `min_members` lets a submission be written without members that failed, if so many are there; None asks for all.
    """

    format: SubmissionFormat = SubmissionFormat.labels
    template: str | None = None
    class_ids: str | None = None
    min_members: int | None = None

    def __post_init__(self) -> None:
        if self.min_members is not None and self.min_members < 1:
            raise ValueError(f"min_members={self.min_members}: give 1 or more, or null")


@dataclass(frozen=True)
class PredictConfig:
    checkpoint: KeptCheckpoint = KeptCheckpoint.last
    crops: Crops = Crops.ten


@dataclass(frozen=True)
class StageLayer(TrainingSettings):
    """What may be written of a stage; `epochs` is short for `schedule.epochs`."""

    dataset: str | None = None
    epochs: int | None = None
    init_from: str | None = None
    reset: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    lr_scale: Mapping[str, float] = field(default_factory=dict)
    init_file: str | None = None


@dataclass(frozen=True)
class MemberLayer(TrainingSettings):
    """What may be written of a member, over the groups' settings."""

    seed: int | None = None
    stages: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.seed is not None and self.seed < 0:
            raise ValueError(f"seed={self.seed}: give 0 or more")


@dataclass(frozen=True)
class EnsembleLayer:
    """`members` by name; `stages`: defaults of all members' stages of that name; `template`: what a sweep copies."""

    members: Mapping[str, Any] = field(default_factory=dict)
    stages: Mapping[str, Any] = field(default_factory=dict)
    template: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class RootLayer(TrainingSettings):
    """The whole composed configuration as written."""

    experiment: str = ""
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
    checkpoint_updates: int = 200
    precision: Precision = Precision.auto

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed={self.seed}: give 0 or more")
        if self.checkpoint_updates < 1:
            raise ValueError(f"checkpoint_updates={self.checkpoint_updates}: give 1 or more")


@dataclass(frozen=True)
class StageConfig:
    """One stage, all defaults resolved; `init_from` is still as written (`<stage>` or `<member>.<stage>`)."""

    dataset: str
    init_from: str | None
    reset: tuple[str, ...]
    freeze: tuple[str, ...]
    lr_scale: tuple[tuple[str, float], ...]
    settings: TrainingSettings
    init_file: str | None = None


@dataclass(frozen=True)
class MemberConfig:
    """One member; `seed` None means the run's."""

    name: str
    seed: int | None
    stages: Mapping[str, StageConfig]


@dataclass(frozen=True)
class Config:
    """The checked configuration of a run. `yaml` is its composed text, interpolations (secrets) unresolved."""

    experiment: str
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
    checkpoint_updates: int
    precision: Precision
    local_copy: Path | None = None
    yaml: str = field(default="", repr=False, compare=False)


def default_run_dir(experiment: str, plan_hash: str) -> Path:
    """Where a run lies when `run_dir` is not given."""
    return Path("runs") / f"{experiment}-{plan_hash[:8]}"


def is_safe_name(name: str) -> bool:
    """Whether `name` can be a member, stage or dataset: a folder name that needs no quoting."""
    return _NAME.fullmatch(name) is not None
