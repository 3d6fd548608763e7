"""The names of the files inside a member's folder and in an exported dataset; `RunPaths` has those above."""

# Inside a member's folder, beside its stages.
PREDICTIONS = "predictions"
ATTEMPT = ".attempt"
ACTOR_LOCK = ".lock"

# Inside a stage's folder.
CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
STEP = "step.txt"
LOG = "log.txt"
DONE = "DONE.json"
AUGMENTED = "augmented.png"

# Inside a checkpoint's folder.
MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
MANIFEST = "MANIFEST.json"

# Inside an exported dataset, beside what each split has there.
CLASSES = "classes.txt"
DATASET = "dataset.json"
PREPARED = "prepared.png"

_STEP = "step-"


def checkpoint(step: int) -> str:
    """The folder name of the checkpoint after `step` updates."""
    return f"{_STEP}{step:08d}"


def step_of(name: str) -> int | None:
    """The updates made at the checkpoint whose folder has this name; None where it is no checkpoint's."""
    digits = name.removeprefix(_STEP)
    return int(digits) if digits.isdecimal() and name == checkpoint(int(digits)) else None


def probabilities(split: str) -> str:
    """Inside `predictions`: the split's [rows, classes] float32."""
    return f"{split}.npy"


def described(split: str) -> str:
    """Inside `predictions`: the `SplitPredictions` of the file that `probabilities` names."""
    return f"{split}.json"


def rows(split: str) -> str:
    """Inside a store or an exported dataset: the split's image paths, one a line."""
    return f"{split}.rows.txt"


def labels(split: str) -> str:
    """Inside a store or an exported dataset: the split's [rows] int64."""
    return f"{split}.labels.npy"


def sizes(split: str) -> str:
    """Inside a store or an exported dataset: the split's [rows, 2] int32, width and height in pixels."""
    return f"{split}.sizes.npy"
