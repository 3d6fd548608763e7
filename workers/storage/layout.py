"""The names of the files inside a member's folder and in an exported dataset; `RunPaths` has the rest of a run's."""

# Inside a member's folder, beside its stages; what is nearest to some images lies in the predictions.
PREDICTIONS = "predictions"
NEIGHBOURS = "neighbours.json"
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
FOLDS = "folds.npy"

_STEP = "step-"
_AVERAGED = "averaged-"


def checkpoint(step: int) -> str:
    """Returns the folder name of the checkpoint after `step` updates."""
    return f"{_STEP}{step:08d}"


def averaged(step: int) -> str:
    """Returns the folder name of the averaged weights of a stage that ended after `step` updates."""
    return f"{_AVERAGED}{step:08d}"


def is_averaged(name: str) -> bool:
    """Returns whether a checkpoint's folder of that name holds averaged weights, from which no training resumes."""
    return name.startswith(_AVERAGED)


def step_of(name: str) -> int | None:
    """Returns the number of updates from the name of a checkpoint's folder, None for any other name."""
    digits = name.removeprefix(_STEP)
    return int(digits) if digits.isdecimal() and name == checkpoint(int(digits)) else None


def answers(split: str, epoch: int | str) -> str:
    """Returns the name, inside a stage's folder, of what its net said of a split after an epoch; "*" is for all."""
    return f"answers/{split}-{epoch}.npz"


def probabilities(split: str) -> str:
    """Returns the name, inside `predictions`, of the split's [rows, classes] float32."""
    return f"{split}.npy"


def described(split: str) -> str:
    """Returns the name, inside `predictions`, of the `SplitPredictions` that describe `probabilities`."""
    return f"{split}.json"


def rows(split: str) -> str:
    """Returns the name, inside a store or an exported dataset, of the split's image paths, one a line."""
    return f"{split}.rows.txt"


def labels(split: str) -> str:
    """Returns the name, inside a store or an exported dataset, of the split's labels, [rows] int64."""
    return f"{split}.labels.npy"


def sizes(split: str) -> str:
    """Returns the name, inside a store or an exported dataset, of widths and heights, [rows, 2] int32 in pixels."""
    return f"{split}.sizes.npy"
