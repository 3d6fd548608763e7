"""What the driver hands to a worker and what comes back: frozen, picklable, torch-free values."""

from dataclasses import dataclass
from pathlib import Path

from workers.settings import Crops, KeptCheckpoint, TrainingSettings


@dataclass(frozen=True)
class Numerics:
    """Fixed at a run's first start and kept, since they change bits.

    `threads` are torch's intra-op ones, `precision` is fp32 or bf16, `kernels` "compiled" or "torch": what computes
    local response normalisation.
    """

    threads: int = 1
    precision: str = "fp32"
    device: str = "cpu"
    kernels: str = "torch"


@dataclass(frozen=True)
class InitFile:
    """A user's file of weights to start from, by its absolute path, and its sha256 when the plan was made."""

    path: str
    sha256: str

    @property
    def name(self) -> str:
        return Path(self.path).name


@dataclass(frozen=True)
class StageSpec:
    """One stage of one member, self-contained.

    `store` is a prepared dataset folder, `stage_dir` is `members/<member>/<stage>` of the run directory,
    `init_dir` the ancestor's stage_dir or None, `init_file` a file of weights instead. `reset` names layers drawn anew,
    `freeze` layers left as they are, `lr_scale` factors of the learning rate by layer (`conv1` … `conv6`, `fc6`, `fc7`,
    `fc8`). `local_copy` is a folder of the node's own that the store is copied to and read from, or None. `fence` is
    the attempt's mark (`workers.storage.fence`).
    """

    member: str
    stage: str
    seed: int
    settings: TrainingSettings
    store: Path
    stage_dir: Path
    init_dir: Path | None
    reset: tuple[str, ...]
    freeze: tuple[str, ...]
    lr_scale: tuple[tuple[str, float], ...]
    numerics: Numerics
    checkpoint_updates: int
    keep: KeptCheckpoint
    stage_hash: str
    attempt: int = 0
    init_file: InitFile | None = None
    local_copy: Path | None = None
    fence: str = ""


@dataclass(frozen=True)
class StageResult:
    """A finished stage: which checkpoint speaks for it and how it ended."""

    num_updates: int
    resumed_from: int
    checkpoint: str
    checkpoint_sha256: str
    dev_error: float
    val_error: float
    at_chance: bool


@dataclass(frozen=True)
class PredictSpec:
    """Prediction of prepared splits by a finished stage, from `crops`; files go to `predictions_dir`.

    `local_copy` and `fence` are as in `StageSpec`.
    """

    member: str
    stage_dir: Path
    store: Path
    predictions_dir: Path
    splits: tuple[str, ...]
    settings: TrainingSettings
    numerics: Numerics
    crops: Crops = Crops.ten
    local_copy: Path | None = None
    fence: str = ""


@dataclass(frozen=True)
class SplitPredictions:
    """What `<split>.json` beside `<split>.npy` says of it.

    `rows_sha256` is of the store's `<split>.rows.txt`, which names images; `data_digest` is the store's, and so says
    which pixels were seen.
    """

    split: str
    num_rows: int
    num_classes: int
    rows_sha256: str
    data_digest: str
    sha256: str
    checkpoint: str
    checkpoint_sha256: str
