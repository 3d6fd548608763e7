"""What each verb does: asks the rooms, prints results to stdout, shows progress on stderr, gives the exit code.

Imports are inside the verbs: `septet status` must not wait for Ray, MLflow or Hydra to load.
"""

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from orchestrator.cli.parser import Request
from orchestrator.text import complaint, counted, printable
from workers.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from orchestrator.config import ClusterConfig
    from orchestrator.outputs import Results
    from orchestrator.run import RunPaths

_OK = 0
_DOCTOR_FAILED = 2
_REFRESH_S = 1.0
_OBEYED = re.compile("[\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SUBMIT_GROUPS = ("combine", "submission")


@dataclass(frozen=True)
class Streams:
    """Where results go, and where progress and complaints go."""

    out: IO[str]
    err: IO[str]

    def results(self, lines: Iterable[str]) -> None:
        """Each line to stdout."""
        self.out.write("".join(f"{printable(str(line))}\n" for line in lines))

    def document(self, value: Any) -> None:
        """One JSON document to stdout."""
        text = json.dumps(value, indent=1, ensure_ascii=False)
        # JSON's own escapes for the few letters that json lets through and a terminal obeys.
        self.out.write(_OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")

    def progress(self, line: str) -> None:
        """A line to stderr."""
        self.err.write(f"{complaint(line)}\n")
        self.err.flush()


def launch(request: Request, streams: Streams) -> int:
    """Everything from images to submission and report; the table and where to look go to stdout."""
    from orchestrator.config import compose
    from orchestrator.launching import Incomplete, launch as run_launch

    config = compose(request.overrides, request.config_dir)
    try:
        done = run_launch(config, streams.err, accept_changes=request.accept_changes)
    except Incomplete as incomplete:
        streams.results(_outcome_lines(incomplete.done.results))
        raise
    streams.results(_outcome_lines(done.results))
    streams.results([f"run         {_near(done.run_dir)}", f"curves      septet ui {_near(done.run_dir)}"])
    return _OK


def plan(request: Request, streams: Streams) -> int:
    """What a launch would do, and how long it would take; nothing on disk changes."""
    from orchestrator.config import compose
    from orchestrator.inputs import check_init_files, hash_init_files, survey_all
    from orchestrator.placement import Measuring, measure_rates, place
    from orchestrator.plan import make_plan, make_report

    config = compose(request.overrides, request.config_dir)
    planned = make_plan(config, survey_all(config, allow_absent=True), hash_init_files(config))
    check_init_files(planned)
    placed = place(config, planned, streams.progress, Measuring.never)
    here = _members_at_once(replace(placed.cluster, address=None), streams)
    slots = _members_at_once(placed.cluster, streams) if config.cluster.address else here
    # What does not fit this machine cannot be timed on it.
    rates = measure_rates(planned, placed, streams.progress) if here else None
    report = make_report(planned, placed.cluster, max(1, slots), rates, placed.line)
    if request.json:
        streams.document(report.to_json())
    else:
        streams.out.write(printable(report.to_text()))
    return _OK


def _members_at_once(cluster: "ClusterConfig", streams: Streams) -> int:
    """How many fit; a plan may be for machines that are elsewhere, so 0 is told and not refused."""
    from orchestrator.cluster import check_resources

    try:
        return check_resources(cluster)
    except ConfigError as error:
        streams.progress(f"not here: {error}")
        return 0


def prepare(request: Request, streams: Streams) -> int:
    """Packs the datasets that stages read, and says what each holds."""
    from orchestrator.config import compose
    from orchestrator.display import summary, watching
    from orchestrator.inputs import prepare_all

    config = compose(request.overrides, request.config_dir)
    with watching(streams.err) as watch:
        prepared = prepare_all(config, watch)
    for name, store in prepared.stores.items():
        streams.results(summary(name, store))
    return _OK


def ui(request: Request, streams: Streams) -> int:
    """The MLflow UI, until Ctrl-C."""
    from orchestrator.config import compose
    from orchestrator.tracking import find_target, open_ui

    open_ui(find_target(request.run_dir, compose([]).tracking.uri), streams.out)
    return _OK


def status(request: Request, streams: Streams) -> int:
    """One line a stage; with `--watch` until the run ends."""
    from orchestrator.run import RunPaths, read_status, status_json, status_lines

    paths = RunPaths(_given(request.run_dir))
    if request.watch and request.json:
        raise ConfigError("--watch and --json do not go together; ask again and again for --json instead")
    if request.watch:
        watch(paths.root, streams)
    now = read_status(paths)
    if request.json:
        streams.document(status_json(now))
    else:
        streams.results(status_lines(now))
    return _OK


def watch(run_dir: Path, streams: Streams, pause: Callable[[float], None] = time.sleep) -> None:
    """Shows how the run gets on, until no process holds it: a launch that prepares its data is not yet running."""
    from orchestrator.display import Display
    from orchestrator.run import RunPaths, is_locked, read_status

    paths = RunPaths(run_dir)
    display = Display(streams.out)
    try:
        while is_locked(paths):
            display.show(read_status(paths))
            pause(_REFRESH_S)
    finally:
        display.close()


def submit(request: Request, streams: Streams) -> int:
    """Stored predictions, combined anew."""
    from orchestrator.config import reopen
    from orchestrator.outputs import write_results
    from orchestrator.plan import plan_from_json
    from orchestrator.run import RunPaths, lock, read_record

    for override in request.overrides:
        if re.split(r"[.=]", override)[0] not in _SUBMIT_GROUPS:
            groups = " and ".join(_SUBMIT_GROUPS)
            raise ConfigError(f"{override}: the run is trained; submit takes overrides of {groups} only")
    paths = RunPaths(_given(request.run_dir))
    record = read_record(paths)
    config = reopen(_configuration(paths), request.overrides)
    with lock(paths):
        results = write_results(paths, plan_from_json(record.plan), config.combine, config.submission)
    streams.results(_outcome_lines(results))
    return _OK


def report(request: Request, streams: Streams) -> int:
    """The report, from what the run has on disk."""
    from orchestrator.config import reopen
    from orchestrator.outputs import rebuild_report
    from orchestrator.plan import plan_from_json
    from orchestrator.run import RunPaths, lock, read_record

    paths = RunPaths(_given(request.run_dir))
    record = read_record(paths)
    combine = reopen(_configuration(paths)).combine
    with lock(paths):
        results = rebuild_report(paths, plan_from_json(record.plan), combine)
    streams.results(_outcome_lines(results))
    return _OK


def _configuration(paths: "RunPaths") -> str:
    """config.yaml as the last launch composed it."""
    try:
        return paths.config_yaml.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = "missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise StorageError(f"{paths.config_yaml}: {problem}; run `septet launch` again, which writes it") from error


def _outcome_lines(results: "Results") -> Iterator[str]:
    """The table, then where submission and report lie."""
    yield results.table_text.rstrip("\n")
    yield ""
    if results.submission is not None:
        yield f"submission  {_near(results.submission)}"
    if results.digests is not None:
        yield f"digest      {results.digests.manifest_sha256} (sha256 of the submission's manifest.json)"
    for page in results.files:
        if page.suffix == ".html":
            yield f"report      {_near(page)}"


def _near(path: Path) -> Path:
    """The path as it is best typed here: relative below the working directory, else absolute."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def predict(request: Request, streams: Streams) -> int:
    """The ensemble's best classes for each image."""
    from orchestrator.prediction import check_out, predict, prediction_json, prediction_lines, write_out
    from orchestrator.run import RunPaths

    if request.out is not None:
        check_out(request.out)
    found = predict(RunPaths(_given(request.run_dir)), request.images, request.top, streams.progress)
    if request.out is not None:
        write_out(request.out, found)
        streams.progress(f"{counted(len(found), 'image')}: {request.out}")
    if request.json:
        streams.document(prediction_json(found))
    elif request.out is None:
        streams.results(prediction_lines(found))
    return _OK


def verify(request: Request, streams: Streams) -> int:
    """Whether all that the run has is as it was committed, and its submission the same when it is made again."""
    from orchestrator.run import RunPaths
    from orchestrator.verification import require_ok, verification_json, verification_lines, verify as verify_run

    paths = RunPaths(_given(request.run_dir))
    found = verify_run(paths)
    if request.json:
        streams.document(verification_json(found))
    else:
        streams.results(verification_lines(str(_near(paths.root)), found))
    require_ok(paths, found)
    return _OK


def explain(request: Request, streams: Streams) -> int:
    """Where one line of the submission comes from."""
    from orchestrator.run import RunPaths
    from orchestrator.verification import explain as explain_line, explanation_json, explanation_lines

    found = explain_line(RunPaths(_given(request.run_dir)), request.image_id, request.top)
    if request.json:
        streams.document(explanation_json(found))
    else:
        streams.results(explanation_lines(found))
    return _OK


def stop(request: Request, streams: Streams) -> int:
    """Asks the launch to stop, and says what came of it."""
    from orchestrator.execution import ask_to_stop
    from orchestrator.run import RunPaths

    streams.results([ask_to_stop(RunPaths(_given(request.run_dir)), request.timeout).line])
    return _OK


def doctor(request: Request, streams: Streams) -> int:
    """Every check, a line each; 2 if one failed."""
    from orchestrator.config import compose
    from orchestrator.doctor import check_lines, examine, gather, has_failed

    checks = examine(gather(compose(request.overrides, request.config_dir), streams.progress))
    if request.json:
        streams.document([asdict(check) for check in checks])
    else:
        streams.results(check_lines(checks))
    return _DOCTOR_FAILED if has_failed(checks) else _OK


def _given(path: Path | None) -> Path:
    assert path is not None, "the parser lets no such request through"
    return path


VERBS: dict[str, Callable[[Request, Streams], int]] = {
    "launch": launch,
    "submit": submit,
    "report": report,
    "plan": plan,
    "prepare": prepare,
    "ui": ui,
    "status": status,
    "predict": predict,
    "explain": explain,
    "verify": verify,
    "stop": stop,
    "doctor": doctor,
}
