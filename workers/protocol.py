"""The values that driver and worker exchange: frozen, picklable, without torch."""

from dataclasses import dataclass
from pathlib import Path

from workers.settings import Crops, KeptCheckpoint, Normalisation, Recipe, TrainingSettings

# What torch.compile does to a training step: nothing; fuses operators; replays fused ones as CUDA graphs.
COMPILE_MODES = ("off", "fused", "graphs")

# Mean and deviation of each channel, on the scale [0, 1] of pixels; empty for none.
Scale = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Numerics:
    """The settings that change bits; fixed when a run first starts.

    `threads` counts torch's intra-op threads. `precision` is fp32, bf16, or on GPUs fp16, with a scaled loss, or tf32:
    float32 whose products round their factors to TF32. `kernels`, "compiled" or "torch", computes local response
    normalisation. `compile` is one of `COMPILE_MODES`, `convolutions` is "by_shape" or "torch".
    """

    threads: int = 1
    precision: str = "fp32"
    device: str = "cpu"
    kernels: str = "torch"
    compile: str = "off"
    convolutions: str = "torch"


@dataclass(frozen=True)
class InitFile:
    """A file of weights to start from: its absolute path, its sha256 at planning, and a published one's scale."""

    path: str
    sha256: str
    scale: Scale = ()

    @property
    def name(self) -> str:
        return Path(self.path).name


@dataclass(frozen=True)
class Normaliser:
    """How pixels are normalised: by `scale` if it is given, else as `kind` says, by the dataset prepared at `store`."""

    kind: Normalisation
    store: Path
    scale: Scale = ()


@dataclass(frozen=True)
class HeldFold:
    """A fold of the training images of the dataset prepared at `target`.

    `folds` is a file of [images, repeats] int16: each image's fold in each partition.
    """

    target: Path
    folds: Path
    number: int
    repeat: int


@dataclass(frozen=True)
class Teacher:
    """What a member predicts of the images of its `fold`: an .npy of [images, classes] float32, and its sha256."""

    predictions: Path
    sha256: str
    fold: HeldFold


@dataclass(frozen=True)
class Meeting:
    """Where the workers of a gang meet: rank 0 listens at (`host`, `port`), by the open socket `listener`.

    `here` is the address at which the others reach this worker.
    """

    host: str
    port: int
    here: str
    listener: int | None = None


@dataclass(frozen=True)
class StageSpec:
    """One stage of one member: its recipe, and where it reads and writes.

    Attributes:
        store: folder of the prepared dataset.
        stage_dir: `members/<member>/<stage>` of the run directory.
        init_dir: the ancestor's stage_dir, or None.
        stage_hash: the plan's hash of the stage, kept in every checkpoint.
        init_file: a file of weights to start from in place of `init_dir`, or None.
        local_copy: a folder on the node's own disk that the store is copied to and read from, or None.
        shorter: hashes that the stage had with fewer epochs; it resumes from such checkpoints too.
        normaliser: in place of what the recipe says of `store`; None to follow the recipe.
        fence: the attempt's mark (`workers.storage.fence`).
        until: epochs after which the stage pauses, with a checkpoint, or a refit ends; 0 trains all.
        fold: images that the stage neither trains on nor looks at, or None.
        teachers: what the stage learns from, in the order of their sha256.
        code: the launch's `workers.numerics.code_digest`; a worker of other code refuses. "" for any.
        rank: of this worker in the gang that trains the stage. Rank 0 alone reads and writes the stage's files.
        width: the number of workers in the gang.
        meeting: where they meet, as its actors agree; None for one alone.
    """

    member: str
    stage: str
    seed: int
    recipe: Recipe
    store: Path
    stage_dir: Path
    init_dir: Path | None
    numerics: Numerics
    checkpoint_updates: int
    keep: KeptCheckpoint
    stage_hash: str
    attempt: int = 0
    init_file: InitFile | None = None
    local_copy: Path | None = None
    fence: str = ""
    shorter: tuple[str, ...] = ()
    until: int = 0
    normaliser: Normaliser | None = None
    fold: HeldFold | None = None
    teachers: tuple[Teacher, ...] = ()
    code: str = ""
    rank: int = 0
    width: int = 1
    meeting: Meeting | None = None

    @property
    def taught_by(self) -> list[str]:
        """The sha256 of all that the stage learns from, as its checkpoints keep it."""
        return [teacher.sha256 for teacher in self.teachers]

    @property
    def pauses(self) -> bool:
        """Whether the stage continues after `until`; a refit ends there."""
        return self.until > 0 and self.recipe.refit is None


@dataclass(frozen=True)
class StageResult:
    """A finished or paused stage: its last checkpoint, and its errors on dev and val in [0, 1], None if there are none.

    `best_epochs` is the number of epochs with the lowest error on dev, and `cut_at` are those that ended in a cut.
    """

    num_updates: int
    resumed_from: int
    checkpoint: str
    checkpoint_sha256: str
    dev_error: float | None
    val_error: float | None
    at_chance: bool
    best_epochs: int | None = None
    cut_at: tuple[int, ...] = ()


@dataclass(frozen=True)
class PredictSpec:
    """The prepared splits that a finished stage predicts into `predictions_dir`; other fields are as in `StageSpec`.

    The split `oof` are the images of its fold. With `neighbours` the nearest of so many training images are found too.
    """

    member: str
    stage_dir: Path
    store: Path
    predictions_dir: Path
    splits: tuple[str, ...]
    recipe: TrainingSettings
    numerics: Numerics
    crops: Crops = Crops.ten
    local_copy: Path | None = None
    fence: str = ""
    normaliser: Normaliser | None = None
    fold: HeldFold | None = None
    code: str = ""
    neighbours: int = 0


@dataclass(frozen=True)
class SplitPredictions:
    """The contents of `<split>.json`, which describes `<split>.npy` beside it.

    `rows_sha256` is the sha256 of the store's `<split>.rows.txt`, the image names. `data_digest` is the digest of the
    store, and so identifies the pixels.
    """

    split: str
    num_rows: int
    num_classes: int
    rows_sha256: str
    data_digest: str
    sha256: str
    checkpoint: str
    checkpoint_sha256: str
