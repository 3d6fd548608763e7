"""The story of a launch, and nothing else."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

from orchestrator import cluster, placement, submission, tracking
from orchestrator.combine import check_min_members, find_missing
from orchestrator.config import TARGET, Config, default_run_dir
from orchestrator.display import Display, watching
from orchestrator.execution import Driver, Interrupts, Work, obeying
from orchestrator.inputs import Prepared, check_init_files, hash_init_files, prepare_all, survey_all
from orchestrator.outputs import Results, write_results
from orchestrator.placement import Measuring, Placed
from orchestrator.plan import Plan, make_plan
from orchestrator.run import (
    Budgets,
    Ledger,
    OpenedRun,
    Wanted,
    end_noted,
    of_store,
    open_run,
    read_run_data,
    read_status,
    versions,
)
from orchestrator.tracking import DatasetInput, Ending, RunIdentity, Tracker, open_tracking
from workers.data.export import export
from workers.errors import CheckFailed, ClusterLost, DataError, MemberFailed, SeptetError, Stopped
from workers.numerics import code_digest
from workers.settings import HELD_OUT

if TYPE_CHECKING:
    from orchestrator.run import RunPaths


@dataclass(frozen=True)
class LaunchResult:
    """What a launch leaves: the run directory and its results."""

    run_dir: Path
    results: Results


class Incomplete(MemberFailed):
    """Members failed for good, and a submission of the others was written, as `submission.min_members` allows."""

    def __init__(self, message: str, done: LaunchResult) -> None:
        super().__init__(message)
        self.done = done


def launch(config: Config, stream: IO[str], *, accept_changes: bool = False) -> LaunchResult:
    """Trains every stage that is not done yet, predicts, combines, and writes submission and report.

    Args:
        config: the composed configuration.
        stream: where progress is shown.
        accept_changes: go on although data or code differ from the run's, and record it.

    Raises:
        Incomplete: the submission is of some members only.
        SeptetError: with the exit code of interface.md; after 2, 3, 5 and 6 nothing on disk has changed.
    """
    with Interrupts() as interrupts, _display(stream) as display:
        plan = make_plan(config, survey_all(config), hash_init_files(config))
        check_init_files(plan)
        cluster.check_resources(config.cluster)
        submission.check_config(config.submission)
        check_min_members(config.submission, plan)
        root = Path(config.run_dir) if config.run_dir else default_run_dir(config.experiment, plan.hash)
        with open_run(root, _wanted(config, plan), accept_changes=accept_changes) as run, _stoppable(run, interrupts):
            if run.new and config.tracking.required:
                tracking.probe(config.tracking.uri)
            with watching(stream) as watch:
                prepared = prepare_all(config, watch)
            # Asked before the first file changes: a template that does not fit must leave the run as it was.
            submission.ask(config.submission, of_store(prepared.stores[TARGET]))
            run.begin(
                prepared.digests,
                prepared.paths,
                choose=partial(_choose_numerics, config, plan, display),
                keep_data=partial(export, prepared.stores[TARGET]),
            )
            config = _placed(config, plan, run, display)
            with _tracked(config, plan, run, prepared) as tracker:
                run.commit()
                ledger = Ledger(run.paths.ledger)
                with end_noted(ledger):
                    driver = Driver(_work(config, plan, run, prepared), ledger, tracker, run.book)
                    failure = _train(config, plan, run, driver, tracker, interrupts, display)
                    results = write_results(run.paths, plan, config.combine, config.submission, run.book)
                    _publish(results, run.paths, tracker)
                    if failure is not None:
                        raise _incomplete(failure, plan, LaunchResult(run.paths.root, results))
                display.show(read_status(run.paths))
            run.save_mlflow(tracker.ids)
    return LaunchResult(run.paths.root, results)


def _train(
    config: Config,
    plan: Plan,
    run: OpenedRun,
    driver: Driver,
    tracker: Tracker,
    interrupts: Interrupts,
    display: Display,
) -> SeptetError | None:
    """Brings all stages and predictions to their end; a cluster is opened only if something is left to do.

    Gives what members failed of where enough others are there to submit without them.
    """

    def show() -> None:
        run.save_mlflow(tracker.ids)
        display.show(read_status(run.paths))

    failure: SeptetError | None = None
    if driver.take_stock():
        return failure
    with cluster.open_cluster(config.cluster) as actors, interrupts.deferred():
        actors.warm_up(len(config.members), run.record.numerics.threads)
        try:
            driver.run(actors, lambda: interrupts.requested, show)
        except (MemberFailed, DataError, CheckFailed) as error:
            _require_enough(error, config, plan, run)
            failure = error
    if interrupts.requested:
        raise interrupts.error()
    return failure


def _require_enough(failure: SeptetError, config: Config, plan: Plan, run: OpenedRun) -> None:
    """Raises the failure of a member unless `submission.min_members` lets the others submit."""
    wanted = config.submission.min_members
    if wanted is None:
        raise failure
    num_present = len(plan.members) - len(find_missing(run.paths, plan, read_run_data(run.paths.data)))
    if num_present < wanted:
        raise type(failure)(
            f"{failure}; no submission: {num_present} of {len(plan.members)} members have predictions, "
            f"submission.min_members={wanted}"
        ) from failure


def _incomplete(failure: SeptetError, plan: Plan, done: LaunchResult) -> Incomplete:
    num_present = len(plan.members) - len(done.results.missing)
    names = ", ".join(one.member for one in done.results.missing)
    return Incomplete(
        f"{failure}; a submission of {num_present} of {len(plan.members)} members was written, without {names}: "
        "run it again to go on with what is missing",
        done,
    )


def _wanted(config: Config, plan: Plan) -> Wanted:
    kept = config.predict
    return Wanted(plan, config.yaml, kept.checkpoint, code_digest(), versions(), placement.lacking(config), kept.crops)


def _choose_numerics(config: Config, plan: Plan, display: Display) -> Placed:
    """Chooses threads, precision and members at once for a new run, by measurement where it pays."""
    placed = placement.place(config, plan, display.note, Measuring.where_it_pays)
    display.note(f"placement: {placed.line}")
    return placed


def _placed(config: Config, plan: Plan, run: OpenedRun, display: Display) -> Config:
    """The configuration with the CPUs that members ask for under the run's own numerics."""
    kept = run.record.numerics
    if not run.new and config.precision.value not in ("auto", kept.precision):
        display.note(f"precision stays {kept.precision}: it is kept from the run's first start")
    return replace(config, cluster=placement.kept(config, plan, kept))


def _work(config: Config, plan: Plan, run: OpenedRun, prepared: Prepared) -> Work:
    counts = prepared.stores[TARGET].counts
    return Work(
        paths=run.paths,
        plan=plan,
        stores=prepared.paths,
        target=TARGET,
        target_digest=prepared.digests[TARGET],
        splits=tuple(split for split in HELD_OUT if counts.get(split)),
        numerics=run.record.numerics,
        keep=run.record.keep,
        checkpoint_updates=config.checkpoint_updates,
        budgets=Budgets(config.cluster.max_losses, config.cluster.max_failures),
        crops=run.record.crops,
        local_copy=config.local_copy,
        progress_timeout_s=config.cluster.progress_timeout_s,
    )


@contextmanager
def _tracked(config: Config, plan: Plan, run: OpenedRun, prepared: Prepared) -> Iterator[Tracker]:
    """The tracking store for the length of the block; its runs end as the block does."""
    identity = RunIdentity(run.record.run_id, plan.experiment, plan.hash, run.paths.root.name, run.new)
    # Tags, not parameters: an extension changes the one, a launch with another combine the other.
    tags = {"septet.members": str(len(plan.members)), "septet.combine": config.combine.method.value}
    try:
        tracker = open_tracking(config.tracking, identity, plan, {"seed": config.seed}, tags)
    except KeyboardInterrupt:
        # MLflow may know the run by now: the next launch must find it again.
        run.commit()
        raise
    sources = {name: config.datasets[name].root or config.datasets[name].source.value for name in prepared.stores}
    tracker.set_datasets(
        {name: DatasetInput(name, store.digest, sources[name]) for name, store in prepared.stores.items()}
    )
    try:
        yield tracker
    except (Stopped, ClusterLost, KeyboardInterrupt):
        tracker.close(Ending.KILLED)
        raise
    except BaseException:
        tracker.close(Ending.FAILED)
        raise
    tracker.close(Ending.FINISHED)


def _publish(results: Results, paths: "RunPaths", tracker: Tracker) -> None:
    tracker.log_ensemble({f"ensemble/{name}": value for name, value in results.ensemble.items()})
    for member, scores in results.members.items():
        tracker.log_member(member, {f"final/{name}": value for name, value in scores.items()})
    if results.digests is not None:
        # Kept outside the run directory as well, where whoever alters a run's files does not reach.
        sha256 = {"submission": results.digests.sha256, "manifest": results.digests.manifest_sha256}
        tracker.tag_ensemble({f"septet.{name}_sha256": value for name, value in sha256.items()})
    tracker.log_artifact(paths.config_yaml)
    tracker.log_artifact(paths.submission, "submission")
    tracker.log_artifact(paths.report, "report")


def _stoppable(run: OpenedRun, interrupts: Interrupts) -> AbstractContextManager[None]:
    assert run.holder is not None, "it is open"
    return obeying(run.paths, run.holder, interrupts)


@contextmanager
def _display(stream: IO[str]) -> Iterator[Display]:
    display = Display(stream)
    try:
        yield display
    finally:
        display.close()
