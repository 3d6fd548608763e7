"""Writes RUN_DIR/report from scores and files on disk: scores.json, table.md, figures and the page."""

import logging
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from orchestrator.combine import MemberPredictions
from orchestrator.plan import Plan
from orchestrator.report.figures import Drawing, conv1_kernels
from orchestrator.report.gallery import calibration_states, draw_all
from orchestrator.report.page import MemberEntry, Page, Sheet, render
from orchestrator.report.review import Review
from orchestrator.report.table import Caveats, SplitScores, scores_json, table_text, to_markdown
from orchestrator.report.worth import Valued, worth_json, worth_markdown
from orchestrator.run import RunPaths, RunRecord, read_ledger
from workers.storage import layout, write_bytes, write_json, write_text

COLOURS = 3
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evidence:
    """The inputs of a report: scores (main split first, or none), members' predictions of any split, and caveats.

    `worth` is what members are worth on the main split, if there are two; `review` are the labels to review, if there
    are out-of-fold predictions.
    """

    scores: tuple[SplitScores, ...]
    predictions: Mapping[str, MemberPredictions]
    caveats: Caveats
    worth: Valued | None = None
    review: Review | None = None


def write_report(paths: RunPaths, plan: Plan, record: RunRecord, evidence: Evidence) -> tuple[Path, ...]:
    """Writes the report of the plan's members, which are present, and returns its files, index.html last."""
    drawings = draw_all(paths, plan, evidence.scores)
    scored = evidence.scores[0] if evidence.scores else None
    kernels = {member: png for member in plan.trained if (png := _kernels(paths, plan, member, evidence)) is not None}
    sheets = _sheets(paths, plan)
    page = Page(
        title=f"{plan.experiment}: an ensemble of {len(plan.members)}",
        scores=evidence.scores,
        caveats=evidence.caveats,
        members=tuple(_entry(plan, member, evidence, kernels.get(member)) for member in plan.members),
        drawings={one.name: one for one in drawings},
        sheets=sheets,
        command=shlex.join(record.command) or "(run.json has none: an earlier release launched the run)",
        facts={**_facts(plan, record), **_passed_nans(paths)},
        worth=evidence.worth,
        review=evidence.caveats.review,
    )
    pictures = {f"conv1_{member}": png for member, png in kernels.items()} | {sheet.name: sheet.png for sheet in sheets}
    figures = _write_figures(paths, drawings, pictures)
    tables = [to_markdown(scores, evidence.caveats) for scores in evidence.scores] or [
        table_text(None, evidence.caveats)
    ]
    numbers = [_write_bins(paths, scored)] if scored else []
    if evidence.worth and scored:
        tables.append(worth_markdown(evidence.worth))
        numbers += _write_matrices(paths, scored)
    write_text(paths.report_table, f"# {plan.experiment}\n\n" + "\n".join(tables))
    if evidence.scores:
        worth = worth_json(evidence.worth) if evidence.worth else None
        counts = evidence.review.counts if evidence.review else None
        write_json(paths.report_scores, scores_json(evidence.scores, evidence.caveats.missing, worth, counts))
    else:
        # Of a launch before a refit joined.
        paths.report_scores.unlink(missing_ok=True)
    write_text(paths.report_page, render(page))
    numbered = (paths.report_scores,) if evidence.scores else ()
    if not evidence.review:
        # Of a submission that had the members of all folds. The list stays: a person may have filled it in.
        paths.review_page.unlink(missing_ok=True)
    review = (evidence.review.table, evidence.review.page) if evidence.review else ()
    return (*figures, *numbers, paths.report_table, *numbered, *review, paths.report_page)


def _write_figures(paths: RunPaths, drawings: Sequence[Drawing], pictures: Mapping[str, bytes]) -> tuple[Path, ...]:
    """Writes drawings as SVG and PNG files, and pictures, PNGs by name."""
    files = {paths.figure(name): png for name, png in pictures.items()}
    for one in drawings:
        files |= {paths.figure(one.name): one.png, paths.figure(one.name, "svg"): one.svg}
    for path, content in files.items():
        write_bytes(path, content)
    return tuple(files)


def _write_matrices(paths: RunPaths, scores: SplitScores) -> tuple[Path, ...]:
    """Writes how members' errors correlate and on how many images they disagree: a line and a column a member."""
    matrices = {"error_correlation": scores.error_correlations, "disagreement": scores.disagreements}
    names = list(scores.members)
    for name, matrix in matrices.items():
        lines = [
            ["", *names],
            *([own, *(f"{value:.6f}" for value in row)] for own, row in zip(names, matrix, strict=True)),
        ]
        write_text(paths.figure(name, "csv"), "".join(",".join(line) + "\n" for line in lines))
    return tuple(paths.figure(name, "csv") for name in matrices)


def _write_bins(paths: RunPaths, scores: SplitScores) -> Path:
    """Writes the bins of the reliability diagram, and those of equal width: a line a bin."""
    path, lines = (
        paths.figure("reliability", "csv"),
        ["probabilities,bins,images,lowest,highest,confidence,right,low,high"],
    )
    for name, found in calibration_states(scores).items():
        for kind in ("equal_mass", "equal_width"):
            for one in getattr(found, kind):
                sure = (one.lowest, one.highest, one.confidence, *astuple(one.right))
                lines.append(",".join((name, kind, str(one.num_images), *(f"{value:.6f}" for value in sure))))
    write_text(path, "\n".join(lines) + "\n")
    return path


def _sheets(paths: RunPaths, plan: Plan) -> tuple[Sheet, ...]:
    """Returns the contact sheets that the run has."""
    kept = {paths.prepared_sheet: "Images of the target as they are prepared, by split."}
    for member in plan.trained[:1]:
        kept[paths.augmented_sheet(plan.last_stage(member).ref)] = (
            f"Some training images as {member}'s net sees them: each epoch draws crop, reflection and colours again."
        )
    return tuple(Sheet(path.stem, path.read_bytes(), caption) for path, caption in kept.items() if path.is_file())


def _entry(plan: Plan, member: str, evidence: Evidence, kernels: bytes | None) -> MemberEntry:
    about = evidence.predictions[member].about
    last = None if member in plan.outside else plan.last_stage(member)
    chain = [] if last is None else [*reversed(plan.ancestors(last)), last]
    return MemberEntry(
        name=member,
        pretrained=plan.is_pretrained(member),
        # Another member's stage is given with that member's name.
        stages=" → ".join(stage.ref.stage if stage.ref.member == member else str(stage.ref) for stage in chain)
        or "from outside",
        checkpoint=about.checkpoint,
        checkpoint_sha256=about.checkpoint_sha256,
        kernels=kernels,
    )


def _kernels(paths: RunPaths, plan: Plan, member: str, evidence: Evidence) -> bytes | None:
    """Returns the picture of a member's first layer.

    Returns None if its checkpoint is gone, since a report needs no model, or if no convolution takes three channels (a
    net for grey images).
    """
    folder = paths.checkpoints(plan.last_stage(member).ref) / evidence.predictions[member].about.checkpoint
    try:
        with safe_open(folder / layout.MODEL, framework="numpy") as file:
            name = first_convolution({name: file.get_slice(name).get_shape() for name in file.keys()})  # noqa: SIM118
            if name is None:
                return None
            weights = file.get_tensor(name).astype("float32")
    except (OSError, SafetensorError) as error:
        _log.warning("no picture of %s's first layer: %s", member, error)
        return None
    return conv1_kernels(weights)


def first_convolution(shapes: Mapping[str, Sequence[int]]) -> str | None:
    """Returns the name of the weight with three input channels, such as `conv1.weight`, of all `shapes` by name.

    Of several, the first by name, with numbers compared as numbers.
    """

    def in_order(name: str) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]

    seen = [name for name, shape in shapes.items() if len(shape) == 4 and shape[1] == COLOURS]
    return min(seen, key=in_order, default=None)


def _passed_nans(paths: RunPaths) -> dict[str, str]:
    """Returns a fact about NaNs that a replay did not meet again, if there were any."""
    entries = read_ledger(paths.ledger).stages.items()
    met = [f"{name} at update {', '.join(map(str, entry.passed_nans))}" for name, entry in entries if entry.passed_nans]
    return {"NaN that a replay did not meet again": "; ".join(met)} if met else {}


def _facts(plan: Plan, record: RunRecord) -> dict[str, str]:
    numerics = record.numerics
    digests = {f"data: {name}": digest for name, digest in record.data_digests.items()}
    return {
        "plan hash": plan.hash,
        "code digest": record.code_digest,
        **digests,
        "seeds": ", ".join(f"{member} {plan.last_stage(member).seed}" for member in plan.trained),
        "arithmetic": f"{numerics.precision} on {numerics.device}, threads a member: {numerics.threads}",
        **({"placement": record.placement} if record.placement else {}),
        "versions": ", ".join(f"{name} {version}" for name, version in record.versions.items()),
        **({"launched in": record.directory} if record.directory else {}),
        **({"accepted changes": "; ".join(record.accepted)} if record.accepted else {}),
    }
