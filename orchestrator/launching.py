"""Launches a run: from the configuration to trained members, submission and report."""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import chdir, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Thread
from typing import IO, TYPE_CHECKING

from orchestrator import cluster, placement, submission, tracking
from orchestrator.combine import (
    LEFT_OUT,
    STUDENT,
    check_outside,
    find_missing,
    left_out,
    store_outside,
    without,
)
from orchestrator.config import TARGET, Compile, Config, compose, default_run_dir
from orchestrator.display import Display, remarks_on, watching
from orchestrator.execution import Driver, Interrupts, OutOfTime, Work, ends_at, obeying
from orchestrator.folding import find_folds
from orchestrator.inputs import hash_init_files, hash_outside, prepare_all, survey_all, with_code
from orchestrator.placement import Measuring
from orchestrator.plan import Plan, Widths, disk_estimate, remarks
from orchestrator.planning import checked_plan
from orchestrator.run import (
    Budgets,
    Ledger,
    OpenedRun,
    RunPaths,
    RunRecord,
    StatusReader,
    Wanted,
    end_noted,
    find_finished,
    keep_code,
    of_store,
    open_run,
    read_record,
    read_run_data,
    read_status,
    require_same_folds,
    versions,
)
from orchestrator.text import counted, redact, without_secrets
from orchestrator.tracking import DatasetInput, Ending, RunIdentity, Tracker, ensemble_params
from workers.data.export import export
from workers.data.store import Store, require_space
from workers.errors import CheckFailed, ClusterLost, ConfigError, DataError, MemberFailed, SeptetError, Stopped
from workers.numerics import code_digest
from workers.settings import HELD_OUT

if TYPE_CHECKING:
    from orchestrator.outputs import Results

_CONFIG_DIR = "--config-dir="


@dataclass(frozen=True)
class LaunchResult:
    """Holds the run directory of a launch and its results."""

    run_dir: Path
    results: "Results"


class Incomplete(MemberFailed):
    """Is raised if members are missing and the configuration allowed a submission of the others."""

    def __init__(self, failure: SeptetError, plan: Plan, done: LaunchResult) -> None:
        # A student that is finished is in no submission, and nothing of it is missing.
        missing = [one for one in done.results.missing if one.why != STUDENT]
        num_all = len(plan.members) - (len(done.results.missing) - len(missing))
        named = ", ".join(f"{one.member} ({one.why})" if one.why == LEFT_OUT else one.member for one in missing)
        retry = "" if isinstance(failure, OutOfTime) else ": run it again to retry those that failed"
        super().__init__(
            f"{failure}; a submission of {num_all - len(missing)} of {num_all} members was written, without "
            f"{named}{retry}"
        )
        self.done = done


class IncompleteInTime(Incomplete, OutOfTime):
    """Is raised if the budget was spent before all members were there, and those that are make a submission."""


def launch(config: Config, stream: IO[str], *, accept_changes: bool = False, trust_code: bool = False) -> LaunchResult:
    """Trains every stage that is not done yet, predicts, combines, and writes submission and report.

    Args:
        config: the composed configuration.
        stream: receives the progress display.
        accept_changes: continues although data or code differ from the run's, and records the change.
        trust_code: runs the code of nets in files that `config` names.

    Raises:
        Incomplete: the submission combines only some of the members.
        SeptetError: with the exit code of docs/operations.md; after 2, 3, 5 and 6 nothing on disk has changed.
    """
    config = with_code(config, trusted=trust_code)
    with Interrupts() as interrupts, closing(Display(stream)) as display:
        plan = checked_plan(config, survey_all(config), hash_init_files(config), hash_outside(config))
        slots, least = cluster.check_resources(config.cluster), config.cluster.workers_per_member[0]
        if config.cluster.address is None and slots < least:
            few = f"this machine has room for {counted(slots, 'worker')} at once; give a smaller first number"
            raise ConfigError(f"cluster.workers_per_member={list(config.cluster.workers_per_member)}: {few}")
        root = Path(config.run_dir) if config.run_dir else default_run_dir(config.name, plan.hash, config.runs)
        kept, lacking = config.predict, placement.lacking(config)
        words = tuple(map(without_secrets, config.command))
        wanted = Wanted(
            plan, config.yaml, kept.checkpoint, code_digest(), versions(), lacking, kept.crops, words, config.directory
        )
        opened = open_run(root, wanted, accept_changes=accept_changes)
        with opened as run, obeying(run.paths, run.holder, interrupts):
            for line in (*config.notes, *remarks(plan)):
                display.note(line)
            if run.record.experiment != plan.experiment:
                display.note(f"the name stays {run.record.experiment}, as in the run's first launch")
                plan = replace(plan, experiment=run.record.experiment)
            if run.new and config.tracking.required:
                tracking.probe(config.tracking.uri)
            begun = [stage.ref for stage in plan.stages if run.paths.stage(stage.ref).exists()]
            needed = disk_estimate(plan, kept.checkpoint, begun)
            change = "give a run_dir on another disk"
            require_space(run.paths.root, needed.checkpoints + needed.predictions, "the run", change)
            with watching(stream) as watch:
                stores = prepare_all(config, watch)
            for name, store in stores.items():
                for line in remarks_on(store, most=1):
                    display.note(f"{name}: {line}")
            folds = find_folds(config, stores[TARGET])
            require_same_folds(run.paths.data, folds)
            # Before the first file changes: a template or a file that does not fit must not change the run.
            data = of_store(stores[TARGET], folds)
            submission.ask(config.submission, data)
            check_outside(run.paths, plan, data, run.book, display.note)
            run.begin(
                {name: store.digest for name, store in stores.items()},
                {name: store.path for name, store in stores.items()},
                choose=partial(_choose_numerics, config, plan, run.paths, stores, display),
                keep_data=partial(export, stores[TARGET], folds=folds),
                check=partial(_check_nodes, config, plan, run.paths, stores),
            )
            keep_code(run.paths, plan)
            store_outside(run.paths, plan, data, run.book)
            config = _placed(config, plan, run, display)
            # First: MLflow may soon know the run, and the next launch must find it again.
            run.commit()
            with _tracked(config, plan, run, stores) as tracker:
                ledger = Ledger(run.paths.ledger, budget_ends=ends_at(config.budget.hours))
                with end_noted(ledger):
                    driver = Driver(_work(config, plan, run, stores), ledger, tracker, run.book)
                    needs = _needs(config, plan, run.paths, stores, run.record)
                    failure = _train(config, plan, run, driver, tracker, interrupts, display, needs)
                    results = _results(config, plan, run, failure)
                    results.publish(run.paths, plan.trained, tracker)
                    if config.tracking.models or config.tracking.register:
                        # Imported here, since few launches need it.
                        from orchestrator.finished import log_models

                        log_models(run.paths, config.tracking.register, tracker, display.note, trust_code=trust_code)
                    if failure is not None:
                        kind = IncompleteInTime if isinstance(failure, OutOfTime) else Incomplete
                        raise kind(failure, plan, LaunchResult(run.paths.root, results))
                display.show(read_status(run.paths))
            run.save_mlflow(tracker.ids)
    return LaunchResult(run.paths.root, results)


def recompose(paths: RunPaths) -> Config:
    """Composes the configuration of the run's newest launch again, as if in that launch's working directory.

    Raises:
        DataError: there is no such run, or the working directory of the launch is gone.
        ConfigError: run.json does not have the whole command.
    """
    record = read_record(paths)
    if not record.command:
        raise ConfigError(
            f"{paths.root}: an earlier release wrote its run.json, without the command: type the launch again, with "
            f"run_dir={paths.root}; from then on `septet resume` knows it"
        )
    typed, uri = shlex.join(record.command), str(record.mlflow.get("uri") or "")
    if hidden := next((word for word in record.command if "***" in word), None):
        raise ConfigError(f"run.json keeps no password, as in {hidden}; type the launch again with it: {typed}")
    _, _, *words = record.command
    folders = [Path(word.removeprefix(_CONFIG_DIR)) for word in words if word.startswith(_CONFIG_DIR)]
    try:
        with chdir(record.directory):
            config = compose([word for word in words if not word.startswith(_CONFIG_DIR)], *folders)
    except OSError as error:
        raise DataError(
            f"{record.directory}: {error.strerror}, and the run was launched there, so paths in its command may be "
            f"relative to it; type the launch again: {typed}"
        ) from error
    if uri and redact(config.tracking.uri) != uri:
        # The launch had it from MLFLOW_TRACKING_URI, which another shell or another day may lack.
        if "***" in uri:
            raise ConfigError(f"run.json keeps no password of {uri}; put the whole address into MLFLOW_TRACKING_URI")
        config = replace(config, tracking=replace(config.tracking, uri=uri))
    return replace(config, run_dir=str(paths.root.absolute()))


def _train(
    config: Config,
    plan: Plan,
    run: OpenedRun,
    driver: Driver,
    tracker: Tracker,
    interrupts: Interrupts,
    display: Display,
    needs: cluster.Needs,
) -> SeptetError | None:
    """Runs all jobs that are not done; returns why members are not there that the submission can do without.

    A cluster is opened only if there is work. It starts while the tracking store opens.
    """

    reader = StatusReader(run.paths)

    def show() -> None:
        run.save_mlflow(tracker.ids)
        display.show(reader.read())

    if driver.take_stock():
        _await_store(tracker, run)
        return None
    failure: SeptetError | None = None
    with cluster.open_cluster(config.cluster, needs) as actors:
        actors.warm_up(len(plan.trained), run.record.numerics.threads, run.record.code_digest)
        _await_store(tracker, run)
        with _loading_outputs(), interrupts.deferred():
            try:
                if not driver.run(actors, lambda: interrupts.requested, show) and not interrupts.requested:
                    raise _out_of_time(config, plan, run)
            except (MemberFailed, DataError, CheckFailed, OutOfTime) as error:
                _require_enough(error, config, plan, run)
                failure = error
    if interrupts.requested:
        raise interrupts.error()
    return failure


@contextmanager
def _loading_outputs() -> Iterator[None]:
    """Loads what the results need while members train in the block, when this process only looks at them."""

    def load() -> None:
        # What is missing is told where it is used.
        with suppress(ImportError):
            from orchestrator import outputs  # noqa: F401
            from orchestrator.report import load_libraries

            load_libraries()

    loading = Thread(target=load, name="septet-loading")
    loading.start()
    try:
        yield
    finally:
        loading.join()


def _await_store(tracker: Tracker, run: OpenedRun) -> None:
    """Waits until the tracking store is open; a new run without a store that it needs leaves nothing behind."""
    try:
        tracker.wait_until_open()
    except ConfigError:
        run.committed = False
        raise


def _results(config: Config, plan: Plan, run: OpenedRun, failure: SeptetError | None) -> "Results":
    """Writes submission and report; if they cannot do without what failed, that failure is told too."""
    from orchestrator.outputs import write_results

    try:
        return write_results(run.paths, plan, config.combine, config.submission, run.book, config.metric)
    except (ConfigError, MemberFailed) as error:
        if failure is None:
            raise
        raise type(failure)(f"{failure}; no submission: {error}") from failure


def _require_enough(failure: SeptetError, config: Config, plan: Plan, run: OpenedRun) -> None:
    """Raises `failure` unless `combine.without` or `submission.min_members` allows a submission of other members."""
    plan, wanted = without(plan, left_out(config.combine, plan, run.paths)), config.submission.min_members
    missing = find_missing(run.paths, plan, read_run_data(run.paths.data))
    if missing and wanted is None:
        raise failure
    num_present = len(plan.members) - len(missing)
    if wanted is not None and num_present < wanted:
        raise type(failure)(
            f"{failure}; no submission: {num_present} of {len(plan.members)} members have predictions, "
            f"submission.min_members={wanted}"
        ) from failure


def _out_of_time(config: Config, plan: Plan, run: OpenedRun) -> OutOfTime:
    num_all = len(plan.members)
    num_finished = num_all - len(find_missing(run.paths, plan, read_run_data(run.paths.data)))
    return OutOfTime(
        f"stopped because budget.hours={config.budget.hours:g} is spent: {num_finished} of "
        f"{counted(num_all, 'member')} are finished; run the same command again to resume from the last checkpoints"
    )


def _choose_numerics(
    config: Config, plan: Plan, paths: RunPaths, stores: Mapping[str, Store], display: Display, record: RunRecord
) -> RunRecord:
    needs = _needs(config, plan, paths, stores, record)
    placed = placement.place(config, plan, display.note, Measuring.where_it_pays, needs)
    display.note(f"placement: {placed.line}")
    return replace(record, numerics=placed.numerics, placement=placed.line, lacked=placed.lacked)


def _needs(
    config: Config, plan: Plan, paths: RunPaths, stores: Mapping[str, Store], record: RunRecord
) -> cluster.Needs:
    needs, folders = placement.needs_of(config, plan), tuple(store.path for store in stores.values())
    return replace(needs, code=record.code_digest, folder=paths.root, numerics=record.numerics, stores=folders)


def _check_nodes(config: Config, plan: Plan, paths: RunPaths, stores: Mapping[str, Store], record: RunRecord) -> None:
    """Raises if members are to be trained on a cluster at an address, and none of its nodes can run them."""
    if config.cluster.address is None or all(find_finished(paths, stage) for stage in plan.stages):
        return
    settings = placement.kept(config, plan, record.numerics)
    with cluster.open_cluster(settings, _needs(config, plan, paths, stores, record)):
        pass


def _placed(config: Config, plan: Plan, run: OpenedRun, display: Display) -> Config:
    """Returns the configuration with the CPUs that members need under the run's numerics."""
    kept = run.record.numerics
    if not run.new and config.precision.value not in ("auto", kept.precision):
        display.note(f"precision stays {kept.precision}, as in the run's first launch")
    if not run.new and config.compile is Compile.off and kept.compile != "off":
        display.note(f"compile stays {kept.compile}, as in the run's first launch")
    if not run.new and config.cluster.kernels.value not in ("auto", {"torch": "plain"}.get(kept.kernels, kept.kernels)):
        display.note(f"kernels stay {kept.kernels}, as in the run's first launch")
    return replace(config, cluster=placement.kept(config, plan, kept))


def _work(config: Config, plan: Plan, run: OpenedRun, stores: Mapping[str, Store]) -> Work:
    counts = stores[TARGET].counts
    return Work(
        paths=run.paths,
        plan=plan,
        stores={name: store.path for name, store in stores.items()},
        target_digest=stores[TARGET].digest,
        splits=tuple(split for split in HELD_OUT if counts.get(split)),
        numerics=run.record.numerics,
        keep=run.record.keep,
        checkpoint_updates=config.checkpoint_updates,
        budgets=Budgets(config.cluster.max_losses, config.cluster.max_failures),
        crops=run.record.crops,
        local_copy=config.local_copy,
        progress_timeout_s=config.cluster.progress_timeout_s,
        wait_s=config.cluster.wait_s,
        shorter=run.record.shorter,
        admit=config.admit,
        metric=config.metric,
        without=config.combine.without,
        code=run.record.code_digest,
        hours=config.budget.hours,
        widths=Widths(*config.cluster.workers_per_member),
    )


@contextmanager
def _tracked(config: Config, plan: Plan, run: OpenedRun, stores: Mapping[str, Store]) -> Iterator[Tracker]:
    """Opens the tracker for the block, in the background; its MLflow runs end with the status of the block."""
    identity = RunIdentity(run.record.run_id, plan.experiment, plan.hash, run.paths.root.name, run.new)
    # Tags, since parameters are immutable: an extension changes the members, another launch the method.
    tags = {"septet.members": str(len(without(plan, ()).members)), "septet.combine": config.combine.method.value}
    # First, since two threads that import the same packages at once may see them half loaded.
    cluster.load(config.cluster)
    tracker = Tracker(config.tracking, identity, plan, ensemble_params(config, plan), tags)
    sources = {name: config.datasets[name].root or config.datasets[name].source.value for name in stores}
    tracker.set_datasets({name: DatasetInput(name, store.digest, sources[name]) for name, store in stores.items()})
    try:
        yield tracker
    except BaseException as error:
        killed = isinstance(error, Stopped | ClusterLost | KeyboardInterrupt)
        tracker.close(Ending.KILLED if killed else Ending.FAILED)
        raise
    tracker.close(Ending.FINISHED)
