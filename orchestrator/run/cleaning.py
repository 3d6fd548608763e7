"""Deletes what only training needs from a finished run: optimizer states, and checkpoints that nothing uses."""

from orchestrator.plan import TrainJob, plan_from_json
from orchestrator.run.digests import require_stage
from orchestrator.run.holder import lock
from orchestrator.run.ledger import State, read_ledger
from orchestrator.run.paths import RunPaths
from orchestrator.run.record import read_record
from orchestrator.run.status import find_finished
from workers.errors import MemberFailed
from workers.storage import keep_weights


def clean(paths: RunPaths, *, dry_run: bool = False) -> int:
    """Deletes all of a run's checkpoints but those used, and their optimizer states, and returns the bytes freed.

    The run still verifies, reports, submits, explains and predicts, and new members may start from its stages. With
    `dry_run` it deletes nothing.

    Raises:
        DataError: there is no such run directory.
        RunInUse: another process holds it.
        MemberFailed: the run is not finished.
        CheckFailed, StorageError: a used checkpoint is not the committed one, or damaged; nothing is deleted.
    """
    read_record(paths)
    with lock(paths):
        record, ledger, used = read_record(paths), read_ledger(paths.ledger), {}
        for stage in plan_from_json(record.plan).stages:
            done = find_finished(paths, stage)
            if ledger.state is State.done and ledger.entry(TrainJob(stage.ref)).state is State.ended:
                continue
            if done is None or ledger.state is not State.done:
                raise MemberFailed(f"{paths.root}: the run is not finished; finish it first with `septet resume`")
            require_stage(record.committed, stage.ref, paths.stage(stage.ref), done.checkpoint_sha256)
            used[paths.checkpoints(stage.ref)] = done.checkpoint
        # All are looked at before the first is cleaned.
        num_bytes = sum(keep_weights(folder, name, dry_run=True) for folder, name in used.items())
        if not dry_run:
            for folder, name in used.items():
                keep_weights(folder, name)
    return num_bytes
