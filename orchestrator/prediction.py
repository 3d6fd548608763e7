"""Predicts a user's image files with the finished ensemble of a run (`septet predict`); no Ray, a member at a time."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.combine import ClassProbability, Combination, Combined, equal, top_classes
from orchestrator.config import TARGET, CombineMethod, choices
from orchestrator.execution import normaliser
from orchestrator.fitting import uncertainties
from orchestrator.inputs import require_trust
from orchestrator.plan import Plan, plan_from_json
from orchestrator.run import RunPaths, RunRecord, find_finished, from_kept_code, read_record
from orchestrator.submission import read_manifest
from orchestrator.text import counted
from workers.data.decoding import SUFFIXES, BadImage, Rules, decode, read_content
from workers.data.store import Store, open_store
from workers.errors import ConfigError, DataError, MemberFailed
from workers.numerics import capabilities, usable
from workers.storage import write_text

# 256-pixel squares of one block: at most 400 MB; whole images, a third more if 4:3. Members are loaded once for each
# block.
_BLOCK_IMAGES = 2048
_OUT_SUFFIXES = (".csv", ".json")


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, best first, and how sure the ensemble is (see `Uncertainty`).

    `set` are the classes of its prediction set, None if the run has none.
    """

    path: str
    top: tuple[ClassProbability, ...]
    entropy: float
    mutual_information: float
    set: tuple[str, ...] | None


@dataclass(frozen=True)
class _Ensemble:
    paths: RunPaths
    record: RunRecord
    plan: Plan
    store: Store
    members: tuple[str, ...]
    combination: Combination


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
    ensemble = _open(paths, member)
    for stage in map(ensemble.plan.last_stage, ensemble.members):
        # Of the code that would run, which may be another than lies where the run says that it came from.
        require_trust(from_kept_code(paths, stage.recipe).model, trusted=trust_code)
    files = find_images(images)
    predictions: list[Prediction] = []
    for start in range(0, len(files), _BLOCK_IMAGES):
        block = files[start : start + _BLOCK_IMAGES]
        members = _predict_block(
            ensemble, [_read(file, ensemble.store.size, ensemble.store.rules) for file in block], progress
        )
        probabilities, classes = Combined(members, ensemble.combination)[:], ensemble.store.classes
        best, doubts = top_classes(probabilities, top), uncertainties(ensemble.combination, probabilities, members)
        for file, row, places, doubt in zip(block, probabilities, best, doubts, strict=True):
            guesses = tuple(ClassProbability(classes[place], float(row[place])) for place in places)
            kept = None if doubt.classes is None else tuple(classes[place] for place in doubt.classes)
            predictions.append(Prediction(str(file), guesses, doubt.entropy, doubt.mutual_information, kept))
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
    return [
        {
            "path": prediction.path,
            "top": [{"class": guess.name, "probability": guess.probability} for guess in prediction.top],
            "entropy": prediction.entropy,
            "mutual_information": prediction.mutual_information,
            "set": prediction.set,
        }
        for prediction in predictions
    ]


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


def _open(paths: RunPaths, alone: str | None) -> _Ensemble:
    record = read_record(paths)
    plan = plan_from_json(record.plan)
    if alone is not None and alone not in plan.trained:
        why = "the run has no such member"
        why = "has predictions from files alone, none of new images" if alone in plan.outside else why
        raise ConfigError(f"--member {alone}: {why}; {choices(alone, plan.trained)}")
    manifest = read_manifest(paths) if alone is None else None
    # A submission may do without failed members, if `submission.min_members` allows it; then predictions do too.
    gone = {*plan.students, *(one.member for one in manifest.missing)} if manifest else set[str]()
    wanted = {member for member in plan.members if member not in gone} if alone is None else {alone}
    if given := sorted(wanted & plan.outside.keys()):
        submit = f"`septet submit {paths.root} 'combine.without=[{','.join(given)}]'` to do without"
        raise MemberFailed(f"{', '.join(given)}: has predictions from files alone, none of new images; {submit}")
    unfinished = [name for name in plan.members if name in wanted and not find_finished(paths, plan.last_stage(name))]
    if unfinished:
        raise MemberFailed(f"{paths.root}: not finished: {', '.join(unfinished)}; run `septet launch` again")
    store = open_store(Path(record.stores[TARGET]))
    if manifest is None:
        return _Ensemble(paths, record, plan, store, tuple(wanted), equal(CombineMethod.mean, 1))
    # In the submission's order, so that sums are equal.
    members = tuple(member.name for member in manifest.members)
    if wanted != set(members):
        others = ", ".join(sorted(wanted.symmetric_difference(members)))
        raise MemberFailed(
            f"{paths.submission_manifest}: its members are not this run's ({others}); run `septet launch` again"
        )
    return _Ensemble(paths, record, plan, store, members, manifest.combination)


def _predict_block(
    ensemble: _Ensemble, images: Sequence[np.ndarray], progress: Callable[[str], None]
) -> list[np.ndarray]:
    # Imported here, since torch takes a second to load and a mistyped path should be reported at once.
    from workers.inference import predict_images as predict_by_member

    record, stores = ensemble.record, {name: Path(path) for name, path in ensemble.record.stores.items()}
    numerics = usable(record.numerics, capabilities())
    probabilities = []
    for member in ensemble.members:
        progress(f"{member}: predicting {counted(len(images), 'image')}")
        stage = ensemble.plan.last_stage(member)
        recipe, folder = from_kept_code(ensemble.paths, stage.recipe), ensemble.paths.stage(stage.ref)
        given = normaliser(ensemble.plan, stage, stores)
        probabilities.append(
            predict_by_member(folder, ensemble.store.path, recipe, images, numerics, record.crops, given)
        )
    return probabilities


def _read(path: Path, size: int, rules: Rules) -> np.ndarray:
    try:
        return decode(read_content(path), size, rules=rules).pixels
    except BadImage as bad:
        raise DataError(f"{path}: cannot be read as an image ({bad}); replace it or leave it out") from bad
