"""Defines the verbs that launch, plan and watch runs: each calls the packages below; one may return an exit code.

Imports are inside the verbs, so that `septet status` need not wait for Ray, MLflow or Hydra to load.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from orchestrator.cli import arguments as args
from orchestrator.cli.outcome import near, outcome_lines
from orchestrator.cli.parser import Request, top_parser, verb
from orchestrator.cli.results import compare, explain, export, predict, report, serve, submit, ui, verify
from orchestrator.cli.streams import Streams
from orchestrator.text import printable, size
from workers.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.config import Config
    from orchestrator.placement import Placed
    from orchestrator.run import RunPaths

_DOCTOR_FAILED = 2
_REFRESH_S = 1.0


@verb(
    "prepare, train, predict, combine, and write submission and report; run again to resume or extend",
    "",
    "experiment=tiny_imagenet datasets.target.root=~/photos datasets.superset.root=~/more",
    "ensemble=sweep 'sweep.seed=[0,1,2]' 'sweep.optimizer.lr=[0.01,0.02]'",
    "run_dir=runs/mine",
    takes=[args.OVERRIDES, args.ACCEPT_CHANGES, args.TRUST_CODE, args.CFG, args.CONFIG_DIR],
    news=True,
)
def launch(request: Request, streams: Streams) -> None:
    from orchestrator.config import compose

    config = compose(request.overrides, request.config_dir)
    if request.cfg:
        _show(config, streams)
    else:
        _launch(config, request, streams)


@verb(
    "launch again what the run's newest launch asked for, from any folder: to finish it after a reboot",
    "runs/digits-1a2b3c4d",
    takes=[args.RUN_DIR, args.ACCEPT_CHANGES, args.TRUST_CODE],
    news=True,
)
def resume(request: Request, streams: Streams) -> None:
    from orchestrator.launching import recompose

    _launch(recompose(request.paths), request, streams)


def _show(config: "Config", streams: Streams) -> None:
    streams.out.write(printable(config.yaml))


def _launch(config: "Config", request: Request, streams: Streams) -> None:
    from orchestrator.launching import Incomplete, launch as run_launch

    try:
        changes, trust = request.accept_changes, request.trust_code
        done = run_launch(config, streams.err, accept_changes=changes, trust_code=trust)
    except Incomplete as incomplete:
        streams.results(outcome_lines(incomplete.done.results))
        raise
    streams.results(outcome_lines(done.results))
    streams.results([f"run         {near(done.run_dir)}", f"curves      septet ui {near(done.run_dir)}"])


@verb(
    "show what a launch would do: stages, updates, sizes, disk, time; changes nothing",
    "",
    "experiment=ilsvrc2012 datasets.target.root=/data/ilsvrc --json",
    takes=[args.OVERRIDES, args.JSON, args.TRUST_CODE, args.CFG, args.CONFIG_DIR],
)
def plan(request: Request, streams: Streams) -> None:
    from orchestrator.cluster import survey_nodes
    from orchestrator.config import compose
    from orchestrator.inputs import affected_by_labels, hash_init_files, hash_outside, survey_all, with_code
    from orchestrator.placement import Measuring, augmentation_line, measure_rates, place
    from orchestrator.plan import make_report
    from orchestrator.planning import checked_plan

    config = compose(request.overrides, request.config_dir)
    if request.cfg:
        _show(config, streams)
        return
    config = with_code(config, trusted=request.trust_code)
    for line in config.notes:
        streams.progress(line)
    surveys = survey_all(config, allow_absent=True)
    files = (hash_init_files(config), hash_outside(config))
    planned = checked_plan(config, surveys, *files)
    placed = place(config, planned, streams.progress, Measuring.never)
    slots = here = _members_at_once(placed, streams)
    if config.cluster.address:
        slots, line = survey_nodes(placed.cluster)
        streams.progress(line)
    # Rates of members that do not fit this machine cannot be measured on it.
    rates = measure_rates(planned, placed, streams.progress) if here else None
    costs = augmentation_line(planned, rates, placed.numerics) if rates else ""
    kept, hours = config.predict, config.budget.hours
    report = make_report(
        planned, placed.cluster, max(1, slots), rates, placed.line, costs, kept.checkpoint, hours, kept.crops
    )
    lines = affected_by_labels(config, surveys, files, planned)
    document = report.to_json() | {"affected": lines} if request.json else None
    streams.answer(document, [report.to_text().rstrip("\n"), *lines])


def _members_at_once(placed: "Placed", streams: Streams) -> int:
    """Returns how many members fit here; 0 is reported, not refused, since a plan may be for another machine."""
    from orchestrator.cluster import check_resources
    from workers.numerics import capabilities, missing

    try:
        if placed.cluster.address and (lacked := missing(placed.numerics, capabilities())):
            raise ConfigError(f"it lacks {lacked}")
        return check_resources(replace(placed.cluster, address=None))
    except ConfigError as error:
        streams.progress(f"this machine cannot run it: {error}")
        return 0


@verb(
    "pack the datasets only",
    "experiment=tiny_imagenet datasets.target.root=~/photos",
    takes=[args.OVERRIDES, args.CONFIG_DIR],
    news=True,
)
def prepare(request: Request, streams: Streams) -> None:
    from orchestrator.config import compose
    from orchestrator.display import summary, watching
    from orchestrator.inputs import prepare_all

    config = compose(request.overrides, request.config_dir)
    with watching(streams.err) as watch:
        stores = prepare_all(config, watch)
    for name, store in stores.items():
        streams.results(summary(name, store))


@verb(
    "show the state of a run, one line for each stage",
    "runs/digits-1a2b3c4d --watch",
    "runs/digits-1a2b3c4d --json",
    takes=[args.RUN_DIR, args.JSON, args.WATCH],
)
def status(request: Request, streams: Streams) -> None:
    from orchestrator.run import read_status, status_json, status_lines

    if request.watch and request.json:
        raise ConfigError("--watch and --json cannot be combined; repeat the command with --json instead")
    if request.watch:
        watch_run(request.paths, streams)
    now = read_status(request.paths)
    streams.answer(status_json(now) if request.json else None, status_lines(now))


def watch_run(paths: "RunPaths", streams: Streams, pause: Callable[[float], None] = time.sleep) -> None:
    """Shows the run's progress until no process holds the run: a launch that prepares data is not yet running."""
    from orchestrator.display import Display
    from orchestrator.run import StatusReader, is_locked

    display, reader = Display(streams.out), StatusReader(paths)
    try:
        while is_locked(paths):
            display.show(reader.read())
            pause(_REFRESH_S)
    finally:
        display.close()


@verb(
    "tell a running launch, on this host or another, to checkpoint and stop; waits until it has",
    "runs/digits-1a2b3c4d",
    "runs/digits-1a2b3c4d --timeout 0",
    takes=[args.RUN_DIR, args.TIMEOUT],
    news=True,
)
def stop(request: Request, streams: Streams) -> None:
    from orchestrator.execution import ask_to_stop

    streams.results([ask_to_stop(request.paths, request.timeout)])


@verb(
    "list the runs below a folder: state, members, error of the ensemble, size, date",
    "",
    "/data/runs --json",
    takes=[args.FOLDER, args.JSON],
)
def list_(request: Request, streams: Streams) -> None:
    from orchestrator.run import list_runs, listing_lines

    found = list_runs(request.folder)
    lines = listing_lines(found) if found else [f"no run below {request.folder}; give another folder"]
    streams.answer([asdict(run) for run in found] if request.json else None, lines)


@verb(
    "delete what only training needs from a finished run: optimizer states, and checkpoints that nothing uses",
    "runs/digits-1a2b3c4d --dry-run",
    "runs/digits-1a2b3c4d",
    takes=[args.RUN_DIR, args.DRY_RUN],
    news=True,
)
def clean(request: Request, streams: Streams) -> None:
    from orchestrator.run import clean as clean_run

    freed = size(clean_run(request.paths, dry_run=request.dry_run))
    done = "would free" if request.dry_run else "freed"
    streams.results([f"{near(request.paths.root)}: {done} {freed}; after that, its stages cannot be trained further"])


@verb(
    "check versions, devices, threads, disk, Ray and MLflow before they cause trouble",
    "",
    "experiment=tiny_imagenet cluster.address=auto",
    takes=[args.OVERRIDES, args.JSON, args.TRUST_CODE, args.CONFIG_DIR],
)
def doctor(request: Request, streams: Streams) -> int:
    from orchestrator.config import compose
    from orchestrator.doctor import check_lines, examine, gather, has_failed
    from orchestrator.inputs import with_code

    config = with_code(compose(request.overrides, request.config_dir), trusted=request.trust_code)
    checks = examine(gather(config, streams.progress))
    streams.answer([asdict(check) for check in checks] if request.json else None, check_lines(checks))
    return _DOCTOR_FAILED if has_failed(checks) else 0


@verb(
    "explain a verb, or the configuration: its groups, their choices, and keys with defaults",
    "config",
    "config schedule",
    takes=[args.TOPICS],
)
def help_(request: Request, streams: Streams) -> None:
    from orchestrator.config import group_lines, overview_lines

    match request.topics:
        case []:
            streams.out.write(top_parser(VERBS).format_help())
        case ["config"]:
            streams.results(overview_lines(common=False))
        case ["config", group]:
            streams.results(group_lines(group))
        case [name] if name in VERBS:
            streams.out.write(VERBS[name].parser.format_help())
        case words:
            raise ConfigError(f"help {' '.join(words)}: give a verb, `config`, or `config GROUP`")


@verb(
    "print a script for ~/.bashrc or ~/.zshrc that completes verbs, flags, groups, choices and keys",
    "bash",
    "zsh",
    takes=[args.SHELL],
)
def completion(request: Request, streams: Streams) -> None:
    from orchestrator.cli.completion import completion_script

    streams.out.write(completion_script(request.shell, VERBS))


VERBS = {
    one.name: one
    for one in (
        *(launch, resume, plan, prepare, status, list_, submit, predict, serve, export, explain, verify, report),
        *(compare, stop, clean, ui, doctor, help_, completion),
    )
}
