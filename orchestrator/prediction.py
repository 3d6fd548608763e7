"""Predicts a user's image files with the finished ensemble of a run (`septet predict`); no Ray, a member at a time."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from orchestrator.loaded import LoadedEnsemble, Prediction
from orchestrator.run import RunPaths
from workers.data.decoding import SUFFIXES
from workers.errors import ConfigError, DataError
from workers.storage import write_text

# 256-pixel squares of one block: at most 400 MB; whole images, a third more if 4:3.
_BLOCK_IMAGES = 2048
_OUT_SUFFIXES = (".csv", ".json")


def predict(
    paths: RunPaths,
    images: Sequence[Path],
    top: int,
    progress: Callable[[str], None],
    *,
    trust_code: bool = False,
    member: str | None = None,
) -> tuple[Prediction, ...]:
    """Predicts image files, and those in folders, with every member of a finished run, combined as in its submission.

    Args:
        paths: the run directory.
        images: files and folders; folders are searched recursively, in the order of paths.
        top: number of classes to return for each image.
        progress: called with a line for each member and block.
        trust_code: runs the code of nets that the run keeps.
        member: predicts alone, without a submission's calibration or prediction sets.

    Raises:
        ConfigError: the run's nets need code that is not trusted, or it has no such member with a net.
        DataError: no run, no such file, no image in a folder, or an image that cannot be read (it is named).
        MemberFailed: a member has not finished.
        StorageError: the submission's manifest, which says how to combine, is damaged.
    """
    ensemble = LoadedEnsemble.open(paths, member, trust_code=trust_code)
    files = find_images(images)
    predictions: list[Prediction] = []
    for start in range(0, len(files), _BLOCK_IMAGES):
        block = files[start : start + _BLOCK_IMAGES]
        combined = ensemble.predict([ensemble.read(file) for file in block], progress)
        predictions += ensemble.describe(combined, [str(file) for file in block], top)
    return tuple(predictions)


def find_images(given: Sequence[Path]) -> tuple[Path, ...]:
    """Returns the files to predict: every file named, and in folders every file that looks like an image."""
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            files = (file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            inside = sorted(file for file in files if not file.name.startswith("."))
            if not inside:
                raise DataError(f"{path}: no image in that folder ({', '.join(SUFFIXES)})")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise DataError(f"{path}: no such image file or folder")
    return tuple(found)


def prediction_json(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Returns the document of `septet predict --json`."""
    return [prediction.to_json() for prediction in predictions]


def prediction_lines(predictions: Sequence[Prediction]) -> tuple[str, ...]:
    """Returns a line for each image, like `cat.jpg: tabby 81.2%, tiger cat 11.0%`."""
    return tuple(
        f"{prediction.path}: " + ", ".join(f"{guess.name} {guess.probability:.1%}" for guess in prediction.top)
        for prediction in predictions
    )


def check_out(path: Path) -> None:
    """Raises ConfigError if `write_out` could not write `path`, or it is a run's; called before any work."""
    if path.suffix.lower() not in _OUT_SUFFIXES:
        raise ConfigError(f"--out {path}: give a file that ends in {' or '.join(_OUT_SUFFIXES)}")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--out {path}: there is no folder {path.absolute().parent}")
    for folder in path.resolve().parents:
        if RunPaths(folder).run_json.exists():
            raise ConfigError(f"--out {path}: lies in the run directory {folder}; give another place")


def write_out(path: Path, predictions: Sequence[Prediction]) -> None:
    """Writes .json (as `--json` prints it) or .csv: path, class and probability of each rank, how sure they are."""
    if path.suffix.lower() == ".json":
        write_text(path, json.dumps(prediction_json(predictions), indent=1, ensure_ascii=False) + "\n")
        return
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    places = range(1, 1 + max((len(prediction.top) for prediction in predictions), default=0))
    ranked = [f"{column}_{place}" for place in places for column in ("class", "probability")]
    writer.writerow(["path", *ranked, "entropy", "mutual_information", "set"])
    for prediction in predictions:
        guesses = [word for guess in prediction.top for word in (guess.name, f"{guess.probability:.9g}")]
        numbers = [f"{value:.6f}" for value in (prediction.entropy, prediction.mutual_information)]
        writer.writerow([prediction.path, *guesses, *numbers, ";".join(prediction.set or ())])
    write_text(path, table.getvalue())
