"""Exports the ensemble of a finished run as one folder that needs no Septet (`septet export`)."""

import io
import shutil
from collections.abc import Callable, Collection
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from orchestrator.combine import OF_LOGS, SMALLEST_PROBABILITY, Calibration, Combination, set_penalty
from orchestrator.config import Calibrator, CombineMethod
from orchestrator.loaded import LoadedEnsemble
from orchestrator.run import RunPaths
from orchestrator.tracking import save_pyfunc
from workers.data.decoding import FORMATS
from workers.errors import ConfigError
from workers.protocol import Numerics
from workers.settings import Crops, Keep
from workers.storage import layout, parse_json, replacing_folder, sha256_of, write_json, write_text

if TYPE_CHECKING:
    from workers.export import Combining

FORMS = ("pyfunc", "torch", "onnx", "safetensors")
_EXTRA = ("onnx", "onnxscript", "onnxruntime")


def parse_forms(text: str) -> tuple[str, ...]:
    """Returns the forms that `--to` names; all that can be written here if it names none.

    Raises:
        ConfigError: there is no such form, or its packages are missing.
    """
    lacking = [name for name in _EXTRA if not _is_installed(name)]
    named = [each.strip() for each in text.split(",") if each.strip()]
    if unknown := [each for each in named if each not in FORMS]:
        raise ConfigError(f"--to {unknown[0]}: no such form; choose from {', '.join(FORMS)}")
    if "onnx" in named and lacking:
        raise ConfigError(f"--to onnx: needs {', '.join(lacking)}: pip install 'septet[export]'")
    return tuple(named) or tuple(form for form in FORMS if form != "onnx" or not lacking)


def export(
    paths: RunPaths, out: Path, forms: Collection[str], progress: Callable[[str], None], *, trust_code: bool = False
) -> None:
    """Writes the folder `out`: graphs, weights, predict.py, MLflow model and model card.

    Args:
        paths: the run directory.
        out: a folder that does not exist yet.
        forms: of `FORMS`.
        progress: called with a line for each form.
        trust_code: runs the code of nets that the run keeps.

    Raises:
        ConfigError: `out` exists, or the ensemble has no such form; a net's code is not trusted.
        DataError: there is no such run.
        MemberFailed: there is no submission, a member has not finished or has predictions from files alone.
        StorageError: a file is damaged, or the disk is full.
    """
    if out.exists() or not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out}: {'exists' if out.exists() else 'has no parent folder'}; give a new folder")
    opened = LoadedEnsemble.open(paths, trust_code=trust_code)
    _require_squares(opened)
    combining = _combining(opened.combination)
    # As any machine can compute it.
    plain = replace(opened, record=replace(opened.record, numerics=Numerics()), _nets={})
    members = opened.combination.used(opened.members)
    graphs = set(forms) & {"torch", "onnx"} or ({"torch"} if "pyfunc" in forms else set())
    with replacing_folder(out) as folder:
        if "pyfunc" in forms:
            progress("MLflow model: MLmodel, pyfunc_model.py")
            engine = "torch" if "torch" in graphs else "onnxruntime"
            needed = [f"{name}=={metadata.version(name)}" for name in (engine, "numpy", "pillow", "pandas")]
            save_pyfunc(folder, _blank(opened.size), needed)
        if graphs:
            from workers.export import export_graphs, predict_program

            progress(f"{' and '.join(sorted(graphs))}: tracing {len(members)} members")
            nets = [plain.net(member) for member in members]
            export_graphs(nets, opened.record.crops, opened.size, combining, graphs, folder)
            shutil.copyfile(predict_program(), folder / "predict.py")
            write_json(folder / "ensemble.json", _about(opened, members))
        if "safetensors" in forms:
            progress("safetensors: each member's weights")
            (folder / "members").mkdir()
            for member in members:
                checkpoint = paths.checkpoints(opened.plan.last_stage(member).ref) / plain.net(member).checkpoint
                shutil.copyfile(checkpoint / layout.MODEL, folder / "members" / f"{member}.safetensors")
        write_text(folder / "README.md", _card(opened, members, set(forms) | graphs))


def _is_installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


def _require_squares(opened: LoadedEnsemble) -> None:
    if opened.record.crops is Crops.five_scales and opened.rules.keep is Keep.whole:
        raise ConfigError(
            f"{opened.paths.root}: predict.crops=five_scales with keep=whole sees windows of images of any shape, and "
            "a graph takes squares; train with keep=centre, or other crops"
        )


def _combining(combination: Combination) -> "Combining":
    """Returns the submission's combination in numbers; raises ConfigError for a correction that no graph holds."""
    from workers.export import Combining

    stacking, calibration = combination.stacking, combination.calibration
    return Combining(
        factors=stacking.coefficients if stacking else [weight for weight in combination.weights if weight],
        of_logs=combination.method in OF_LOGS,
        of_ranks=combination.method is CombineMethod.rank,
        constants=stacking.constants if stacking else 0.0,
        correction=_correction(calibration) if calibration and calibration.is_taken else None,
        smallest=SMALLEST_PROBABILITY,
    )


def _correction(calibration: Calibration) -> tuple[Any, Any]:
    if calibration.asked is Calibrator.isotonic:
        raise ConfigError(
            "combine.calibration=isotonic: its curves are not exported; `septet submit RUN_DIR "
            "combine.calibration=temperature` first"
        )
    if calibration.asked is Calibrator.temperature:
        return 1 / calibration.numbers[0], 0.0
    factors, constants = calibration.numbers
    return factors, constants


def _about(opened: LoadedEnsemble, members: Collection[str]) -> dict[str, Any]:
    """Returns ensemble.json: all that predict.py needs beside the graph, and where the ensemble is from."""
    rules, sets, record = opened.rules, opened.combination.sets, opened.record
    penalty, free_places = set_penalty(sets.kind) if sets else (0.0, 0)
    return {
        "classes": list(opened.classes),
        "side": opened.size,
        "exif": rules.exif,
        "keep": rules.keep,
        "max_pixels": rules.max_pixels,
        "formats": list(FORMATS),
        "sets": sets and {"threshold": sets.threshold, "penalty": penalty, "free_places": free_places},
        "members": list(members),
        "run": record.run_id,
        "plan_hash": record.plan_hash,
        "data_digest": opened.store.digest,
        "manifest_sha256": sha256_of(opened.paths.submission_manifest),
    }


def _card(opened: LoadedEnsemble, members: Collection[str], forms: Collection[str]) -> str:
    made = Environment(
        loader=PackageLoader("orchestrator", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    try:
        scores = parse_json(opened.paths.report_scores.read_bytes())
    except (OSError, ValueError):
        scores = {}
    given = {"scores": scores, "members": members, "forms": forms, "combination": opened.combination}
    return made.get_template("model_card.md.j2").render(given, about=_about(opened, members), record=opened.record)


def _blank(side: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (side, side)).save(content, "PNG")
    return content.getvalue()
