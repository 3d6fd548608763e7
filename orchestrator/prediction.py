"""`septet predict`: the finished ensemble of a run on image files of one's own; no Ray, one member at a time."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.combine import Combination, Combined, top_classes
from orchestrator.plan import Plan, plan_from_json
from orchestrator.run import RunPaths, RunRecord, find_finished, read_record
from orchestrator.submission import read_manifest
from orchestrator.text import counted
from workers.data.decoding import FORMATS, BadImage, decode, read_content
from workers.data.store import Store, open_store
from workers.errors import ConfigError, DataError, MemberFailed
from workers.numerics import capabilities, usable
from workers.storage import write_text

TARGET = "target"
# 256-pixel images of one block: 400 MB at most, while members are loaded anew for each block only.
_BLOCK_IMAGES = 2048
_SUFFIXES = {".jpeg", ".jpg", *(f".{name.lower()}" for name in FORMATS)}
_OUT_SUFFIXES = (".csv", ".json")


@dataclass(frozen=True)
class Guess:
    """One class and how probable the ensemble finds it, in [0, 1]."""

    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, best first."""

    path: str
    top: tuple[Guess, ...]


@dataclass(frozen=True)
class _Ensemble:
    paths: RunPaths
    record: RunRecord
    plan: Plan
    store: Store
    members: tuple[str, ...]
    combination: Combination


def predict(
    paths: RunPaths, images: Sequence[Path], top: int, progress: Callable[[str], None]
) -> tuple[Prediction, ...]:
    """Predicts image files, and those inside folders, with every member of a finished run, combined as the run does.

    Args:
        paths: the run directory.
        images: files and folders; a folder's images are taken at any depth, in the order of their paths.
        top: how many classes to tell of each image.
        progress: called with a line to show now and then.

    Raises:
        DataError: no run, no such file, no image in a folder, or an image that cannot be read (it is named).
        MemberFailed: a member has not finished.
        StorageError: the submission's manifest, which says how to combine, is damaged.
    """
    ensemble = _open(paths)
    files = find_images(images)
    predictions: list[Prediction] = []
    for start in range(0, len(files), _BLOCK_IMAGES):
        block = files[start : start + _BLOCK_IMAGES]
        probabilities = _predict_block(ensemble, [_read(file, ensemble.store.size) for file in block], progress)
        predictions += _describe(block, probabilities, ensemble.store.classes, top)
    return tuple(predictions)


def find_images(given: Sequence[Path]) -> tuple[Path, ...]:
    """The files to predict. What is named outright is taken whatever its name; in folders, what looks like an image."""

    def found() -> Iterator[Path]:
        for path in given:
            if path.is_dir():
                inside = sorted(file for file in path.rglob("*") if _looks_like_image(file))
                if not inside:
                    raise DataError(f"{path}: no image in that folder ({', '.join(sorted(_SUFFIXES))})")
                yield from inside
            elif path.is_file():
                yield path
            else:
                raise DataError(f"{path}: no such image file or folder")

    return tuple(found())


def prediction_json(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """The document of `septet predict --json`."""
    return [
        {
            "path": prediction.path,
            "top": [{"class": guess.name, "probability": guess.probability} for guess in prediction.top],
        }
        for prediction in predictions
    ]


def prediction_lines(predictions: Sequence[Prediction]) -> tuple[str, ...]:
    """`cat.jpg: tabby 81.2%, tiger cat 11.0%`, a line an image."""
    return tuple(
        f"{prediction.path}: " + ", ".join(f"{guess.name} {guess.probability:.1%}" for guess in prediction.top)
        for prediction in predictions
    )


def check_out(path: Path) -> None:
    """Refuses, before any work, a file of which `write_out` would not know the format or the folder."""
    if path.suffix.lower() not in _OUT_SUFFIXES:
        raise ConfigError(f"--out {path}: give a file that ends in {' or '.join(_OUT_SUFFIXES)}")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--out {path}: there is no folder {path.absolute().parent}")


def write_out(path: Path, predictions: Sequence[Prediction]) -> None:
    """Writes .json (as `--json` prints it) or .csv: path, then class and probability of each place."""
    if path.suffix.lower() == ".json":
        write_text(path, json.dumps(prediction_json(predictions), indent=1, ensure_ascii=False) + "\n")
        return
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    places = range(1, 1 + max((len(prediction.top) for prediction in predictions), default=0))
    writer.writerow(["path", *(f"{column}_{place}" for place in places for column in ("class", "probability"))])
    for prediction in predictions:
        guesses = [word for guess in prediction.top for word in (guess.name, f"{guess.probability:.9g}")]
        writer.writerow([prediction.path, *guesses])
    write_text(path, table.getvalue())


def _open(paths: RunPaths) -> _Ensemble:
    record = read_record(paths)
    plan = plan_from_json(record.plan)
    manifest = read_manifest(paths)
    # A submission may do without members that failed, where `submission.min_members` allowed that: so does this.
    gone = {one.member for one in manifest.missing}
    wanted = {member for member in plan.members if member not in gone}
    unfinished = [name for name in plan.members if name in wanted and not find_finished(paths, plan.last_stage(name))]
    if unfinished:
        raise MemberFailed(f"{paths.root}: not finished: {', '.join(unfinished)}; run `septet launch` again")
    # In the submission's order, so that the sum is made in the same order.
    members = tuple(member.name for member in manifest.members)
    if wanted != set(members):
        others = ", ".join(sorted(wanted.symmetric_difference(members)))
        raise MemberFailed(
            f"{paths.submission_manifest}: not of this run's members ({others}); run `septet launch` again"
        )
    store = open_store(Path(record.stores[TARGET]))
    return _Ensemble(paths, record, plan, store, members, manifest.combination)


def _predict_block(ensemble: _Ensemble, images: Sequence[np.ndarray], progress: Callable[[str], None]) -> np.ndarray:
    # Here and not above: torch takes a second to load, and a mistyped path should be told at once.
    from workers.inference import predict_images as predict_by_member

    record = ensemble.record
    numerics = usable(record.numerics, capabilities())
    probabilities = []
    for member in ensemble.members:
        progress(f"{member}: predicting {counted(len(images), 'image')}")
        stage = ensemble.plan.last_stage(member)
        probabilities.append(
            predict_by_member(
                ensemble.paths.stage(stage.ref), ensemble.store.path, stage.recipe, images, numerics, record.crops
            )
        )
    combined: np.ndarray = Combined(probabilities, ensemble.combination)[:]
    return combined


def _read(path: Path, size: int) -> np.ndarray:
    try:
        return decode(read_content(path), size).pixels
    except BadImage as bad:
        raise DataError(f"{path}: cannot be read as an image ({bad}); replace it or leave it out") from bad


def _describe(
    files: Sequence[Path], probabilities: np.ndarray, classes: Sequence[str], top: int
) -> Iterator[Prediction]:
    for file, row, best in zip(files, probabilities, top_classes(probabilities, top), strict=True):
        yield Prediction(str(file), tuple(Guess(classes[index], float(row[index])) for index in best))


def _looks_like_image(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()
