"""Gathers what `septet export` writes of a finished run, and refuses what no graph can hold."""

import io
import shutil
from collections.abc import Collection
from dataclasses import replace
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader
from PIL import Image

from orchestrator.combine import OF_LOGS, SMALLEST_PROBABILITY, Combination, place_scores
from orchestrator.config import Calibrator, CombineMethod
from orchestrator.finished.ensemble import LoadedEnsemble, refuse_run_dir
from orchestrator.run import RunPaths
from orchestrator.tracking import save_pyfunc
from workers.data.decoding import FORMATS
from workers.errors import ConfigError
from workers.protocol import Numerics
from workers.settings import Crops
from workers.storage import layout, parse_json, replacing_folder, sha256_of, write_json, write_text

if TYPE_CHECKING:
    from workers.export import Combining

FORMS = ("pyfunc", "torch", "onnx", "safetensors")


def parse_forms(text: str) -> tuple[str, ...]:
    """Returns the forms that `--to` names, or all whose packages are installed; raises ConfigError if one cannot be."""
    lacking = [name for name in ("onnx", "onnxscript", "onnxruntime") if util.find_spec(name) is None]
    named = [each.strip() for each in text.split(",") if each.strip()]
    if unknown := [each for each in named if each not in FORMS]:
        raise ConfigError(f"--to {unknown[0]}: no such form; choose from {', '.join(FORMS)}")
    if "onnx" in named and lacking:
        raise ConfigError(f"--to onnx: needs {', '.join(lacking)}: pip install 'septet[export]'")
    return tuple(named) or tuple(form for form in FORMS if form != "onnx" or not lacking)


def export(
    paths: RunPaths, out: Path, forms: Collection[str], *, member: str | None = None, trust_code: bool = False
) -> None:
    """Writes `out`, which must not exist, of the ensemble or a member: `forms`, predict.py and a model card.

    Raises:
        ConfigError: `out` cannot be made, no graph can hold the ensemble, or a net's code is not trusted.
        DataError: there is no such run.
        MemberFailed: there is no submission, or a member has not finished or has predictions from files alone.
        StorageError: a file is damaged, or the disk is full.
    """
    if out.exists() or not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out}: {'exists' if out.exists() else 'has no parent folder'}; give a new folder")
    refuse_run_dir(out)
    opened = LoadedEnsemble.open(paths, member, trust_code=trust_code)
    if opened.record.crops is Crops.five_scales:
        raise ConfigError(f"{paths.root}: predict.crops=five_scales sees whole images, and a graph takes squares")
    combining = _combining(opened.combination)
    from workers.export import EnsembleGraph, write_graphs

    # As every machine computes it.
    plain = replace(opened, record=replace(opened.record, numerics=Numerics()), _nets={})
    members = opened.combination.used(opened.members)
    nets = [plain.net(member) for member in members]
    with replacing_folder(out) as folder:
        graphs = set(forms) & {"torch", "onnx"} or {"torch"}
        if "pyfunc" in forms:
            engine = "torch" if "torch" in graphs else "onnxruntime"
            save_pyfunc(
                folder, _blank(opened.size), [f"{name}=={metadata.version(name)}" for name in (engine, "pillow")]
            )
        write_graphs(EnsembleGraph(nets, opened.record.crops, opened.size, combining), opened.size, graphs, folder)
        about = _about(opened, members)
        write_json(folder / "ensemble.json", about)
        if "safetensors" in forms:
            (folder / "members").mkdir()
            for member, net in zip(members, nets, strict=True):
                checkpoint = paths.checkpoints(opened.plan.last_stage(member).ref) / net.checkpoint
                shutil.copyfile(checkpoint / layout.MODEL, folder / "members" / f"{member}.safetensors")
        write_text(folder / "README.md", _card(opened, about, {*forms, *graphs}))


def _combining(combination: Combination) -> "Combining":
    from workers.export import Combining

    stacking, calibration, correction = combination.stacking, combination.calibration, None
    if combination.method is CombineMethod.rank:
        raise ConfigError("combine=rank: a graph would compare each class with each other; submit with another first")
    if calibration and calibration.is_taken:
        if calibration.asked is Calibrator.isotonic:
            raise ConfigError("combine.calibration=isotonic: no graph holds its curves; submit with temperature first")
        is_vector = calibration.asked is Calibrator.vector
        correction = calibration.numbers if is_vector else (1 / calibration.numbers[0], 0.0)
    return Combining(
        stacking.coefficients if stacking else combination.used(combination.weights),
        (stacking.constants if stacking else 0.0) if combination.method in OF_LOGS else None,
        correction,
        SMALLEST_PROBABILITY,
    )


def _about(opened: LoadedEnsemble, members: Collection[str]) -> dict[str, Any]:
    """Returns ensemble.json: what predict.py needs beside the graph, and where the ensemble is from."""
    rules, sets, num_classes = opened.rules, opened.combination.sets, len(opened.classes)
    # What each place adds to the score of its class is what it scores without probabilities.
    penalties = place_scores(sets.kind, np.zeros((1, num_classes), np.float32))[0].tolist() if sets else []
    told = {"side": opened.size, "exif": rules.exif, "keep": rules.keep, "max_pixels": rules.max_pixels}
    made = {"run": opened.record.run_id, "plan_hash": opened.record.plan_hash, "data_digest": opened.store.digest}
    made["manifest_sha256"] = sha256_of(opened.paths.submission_manifest)
    set_rule = sets and {"coverage": sets.coverage, "threshold": sets.threshold, "penalties": penalties}
    given = {"classes": opened.classes, "formats": FORMATS, "sets": set_rule, "members": members}
    return {**told, **given, **made}


def _card(opened: LoadedEnsemble, about: dict[str, Any], forms: Collection[str]) -> str:
    path = opened.paths.report_scores
    scores = parse_json(path.read_bytes()) if path.exists() else None
    # Markdown, not HTML.
    made = Environment(loader=PackageLoader("orchestrator.finished", "."), trim_blocks=True, autoescape=False)
    given = {"opened": opened, "about": about, "forms": forms, "scores": scores, "combination": opened.combination}
    return made.get_template("model_card.md.j2").render(given)


def _blank(side: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (side, side)).save(content, "PNG")
    return content.getvalue()
