"""Defines the verbs on a finished run: its submission, predictions, provenance, report and MLflow page.

Imports are inside the verbs, as in `commands`.
"""

import re
import webbrowser
from typing import TYPE_CHECKING

from orchestrator.cli import arguments as args
from orchestrator.cli.outcome import near, outcome_lines
from orchestrator.cli.parser import Request, verb
from orchestrator.cli.streams import Streams
from workers.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from orchestrator.config import Config
    from orchestrator.plan import Plan

_SUBMIT_GROUPS = ("combine", "submission", "metric")


@verb(
    "combine the stored predictions again and write the submission",
    "runs/digits-1a2b3c4d combine=weighted submission=probabilities",
    takes=[args.RUN_DIR, args.SUBMIT_OVERRIDES],
    news=True,
)
def submit(request: Request, streams: Streams) -> None:
    from orchestrator.outputs import write_results
    from orchestrator.run import lock

    for override in request.overrides:
        if re.split(r"[.=]", override)[0] not in _SUBMIT_GROUPS:
            raise ConfigError(f"{override}: the run is trained; submit takes combine, submission and metric only")
    planned, config = _stored(request)
    with lock(request.paths):
        results = write_results(request.paths, planned, config.combine, config.submission, metric=config.metric)
    streams.results(outcome_lines(results))


_ON_FILE = [args.OUT, args.FORM, args.ON_BAD, args.CLUSTER]


@verb(
    "predict new image files, or folders of them, with the finished ensemble",
    "runs/digits-1a2b3c4d cat.jpg more_photos/",
    "runs/digits-1a2b3c4d photos/ --top 3 --out photos.csv",
    "runs/digits-1a2b3c4d test/ --form sample_submission.csv --out submission.csv",
    takes=[args.RUN_DIR, args.IMAGES, args.JSON, args.TOP, *_ON_FILE, args.MEMBER, args.TRUST_CODE],
)
def predict(request: Request, streams: Streams) -> None:
    from orchestrator.finished import Asked, predict_as, prediction_lines

    if request.out is None and request.form != "top":
        raise ConfigError(f"--form {request.form}: is about a file; add --out FILE")
    file = (request.out, request.form, request.on_bad == "list", request.cluster, request.json)
    asked = Asked(request.paths, request.top, request.member, request.trust_code, *file)
    found = predict_as(asked, request.images, streams.progress)
    if request.json or request.out is None:
        document = [one.to_json() for one in found] if request.json else None
        streams.answer(document, prediction_lines(found))


@verb(
    "write the finished ensemble as a folder that needs no Septet: MLflow model, torch program, ONNX, weights",
    "runs/digits-1a2b3c4d --out digits-ensemble",
    "runs/digits-1a2b3c4d --out digits-ensemble --to onnx",
    takes=[args.RUN_DIR, args.OUT_FOLDER, args.TO, args.TRUST_CODE],
)
def export(request: Request, streams: Streams) -> None:
    from orchestrator.finished import export, parse_forms

    if request.out is None:
        raise ConfigError("give --out FOLDER, the folder to write")
    forms = parse_forms(request.to)
    streams.progress(f"{', '.join(forms)}: tracing the members")
    export(request.paths, request.out, forms, trust_code=request.trust_code)
    streams.progress(f"{', '.join(forms)}: {request.out}; its README.md says how to use them")


@verb(
    "answer images over HTTP with the finished ensemble, until Ctrl-C or SIGTERM",
    "runs/digits-1a2b3c4d",
    "runs/digits-1a2b3c4d --host 0.0.0.0 --port 80",
    "runs/digits-1a2b3c4d --replicas 4",
    takes=[args.RUN_DIR, args.HOST, args.SERVE_PORT, args.REPLICAS, args.CLUSTER, args.TRUST_CODE],
    news=True,
)
def serve(request: Request, streams: Streams) -> None:
    from orchestrator.finished import serve

    serve(
        request.paths,
        streams.out,
        request.host,
        request.port,
        trust_code=request.trust_code,
        replicas=request.replicas,
        cluster=request.cluster,
    )


@verb(
    "show where one line of the submission comes from: each member's probabilities, weight, run and checkpoint",
    "runs/digits-1a2b3c4d 0007.png",
    "runs/digits-1a2b3c4d 0007.png --top 3 --json",
    takes=[args.RUN_DIR, args.IMAGE_ID, args.JSON, args.TOP],
)
def explain(request: Request, streams: Streams) -> None:
    from orchestrator.verification import explain, explanation_json, explanation_lines

    found = explain(request.paths, request.image_id, request.top)
    streams.answer(explanation_json(found) if request.json else None, explanation_lines(found))


@verb(
    "check a run's hashes, and check that its submission can be made again byte for byte",
    "runs/digits-1a2b3c4d",
    "runs/digits-1a2b3c4d --json",
    takes=[args.RUN_DIR, args.JSON],
)
def verify(request: Request, streams: Streams) -> None:
    from orchestrator.verification import require_ok, verification_json, verification_lines, verify

    found = verify(request.paths)
    lines = verification_lines(str(near(request.paths.root)), found)
    streams.answer(verification_json(found) if request.json else None, lines)
    require_ok(request.paths, found)


@verb(
    "rebuild the report from the run's files",
    "runs/digits-1a2b3c4d",
    "runs/digits-1a2b3c4d --open",
    takes=[args.RUN_DIR, args.OPEN],
    news=True,
)
def report(request: Request, streams: Streams) -> None:
    from orchestrator.outputs import rebuild_report
    from orchestrator.run import lock

    planned, config = _stored(request)
    with lock(request.paths):
        results = rebuild_report(request.paths, planned, config.combine, config.metric)
    streams.results(outcome_lines(results))
    if request.open and not webbrowser.open(request.paths.report_page.absolute().as_uri()):
        streams.progress("no browser was found here; open the report's page in one")


@verb(
    "compare finished runs on the images that all of them have: errors, differences with intervals, McNemar's test",
    "runs/digits-1a2b3c4d runs/digits-5e6f7a8b",
    "runs/digits-* --json",
    takes=[args.RUN_DIRS, args.JSON],
)
def compare(request: Request, streams: Streams) -> None:
    from orchestrator.finished import compare_runs, comparison_lines

    found = compare_runs(request.run_dirs)
    streams.answer(found if request.json else None, comparison_lines(found))


@verb(
    "open the MLflow UI on a run's store, and print its address",
    "",
    "runs/digits-1a2b3c4d --port 8080",
    takes=[args.ANY_RUN_DIR, args.HOST, args.PORT],
)
def ui(request: Request, streams: Streams) -> None:
    from orchestrator.config import compose
    from orchestrator.tracking import find_target, open_ui

    open_ui(find_target(request.run_dir, compose([]).tracking.uri), streams.out, request.host, request.port)


def _stored(request: Request) -> "tuple[Plan, Config]":
    """Reads the run's plan, and the last launch's configuration with the request's overrides."""
    from orchestrator.config import reopen
    from orchestrator.plan import plan_from_json
    from orchestrator.run import read_record

    planned = plan_from_json(read_record(request.paths).plan)
    path = request.paths.config_yaml
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = "missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise StorageError(f"{path}: {problem}; run `septet launch` again to write it") from error
    return planned, reopen(text, request.overrides)
