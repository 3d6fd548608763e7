"""`septet verify`: a run's files held against each other and run.json's digests; its submission made again.

Takes no lock and changes nothing. Every problem is listed, not the first alone: what `differs` from what was
committed, and what is `missing` because the run is not at its end.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from orchestrator.combine import MemberPredictions, in_words, num_threads, open_predictions
from orchestrator.config import TARGET
from orchestrator.plan import StageRef, plan_from_json
from orchestrator.run import RunData, RunPaths, data_digests, is_locked, read_record, read_run_data
from orchestrator.submission import MANIFEST, Manifest, read_manifest
from orchestrator.verification.findings import Examined, Verification
from orchestrator.verification.submission import check_report, check_submission
from workers.errors import DataError, MemberFailed, SeptetError, StorageError, StorageSilent
from workers.storage import Finished, read_finished, sha256_of, verify_checkpoint


def verify(paths: RunPaths) -> Verification:
    """Checks all that a run has on disk.

    Raises:
        DataError: no run directory there.
        StorageError: run.json, from which all else hangs, is damaged.
    """
    record = read_record(paths)
    run = Examined(paths, record, plan_from_json(record.plan))
    locked = is_locked(paths)
    run.manifest = _read_manifest(run)
    finished = _check_stages(run)
    data = _check_data(run)
    predictions = _check_predictions(run, data, finished) if data else {}
    if run.manifest is not None:
        check_submission(run, run.manifest, data, predictions)
        if data is not None:
            check_report(run, run.manifest, data, finished, predictions)
    if locked and run.problems:
        run.notes.append("a launch is at work here: verify again once it has ended")
    anchor = paths.submission / MANIFEST
    return Verification(
        tuple(run.problems),
        tuple(run.notes),
        run.checked,
        run.rebuilt,
        sha256_of(anchor) if anchor.is_file() else None,
    )


def _read_manifest(run: Examined) -> Manifest | None:
    try:
        return read_manifest(run.paths)
    except MemberFailed:
        run.lacks("submission: not written yet")
    except StorageError as error:
        run.differs(error)
    return None


def _check_stages(run: Examined) -> dict[StageRef, Finished]:
    """DONE.json of each stage that has a sound one; its checkpoint is read whole."""
    if run.manifest is not None and run.manifest.missing:
        run.notes.append(f"the submission does without {in_words(run.manifest.missing)}")
    finished: dict[StageRef, Finished] = {}
    for stage in run.plan.stages:
        folder = run.paths.stage(stage.ref)
        if not run.paths.done(stage.ref).exists():
            if stage.ref.member not in run.gone:
                run.lacks(f"{stage.ref}: not finished")
            continue
        try:
            done = read_finished(folder)
            checkpoint = verify_checkpoint(folder / "checkpoints" / done.checkpoint)
        except StorageSilent:
            raise
        except StorageError as error:
            run.differs(error)
            continue
        run.count("checkpoints")
        if done.stage_hash != stage.hash:
            run.differs(f"{folder}: DONE.json is of other settings than run.json's plan")
        if checkpoint.model_sha256 != done.checkpoint_sha256:
            run.differs(f"{checkpoint.folder}: its weights are not those that DONE.json names")
        run.compare(
            f"{stage.ref}: its checkpoint", checkpoint.model_sha256, run.record.committed.stages.get(str(stage.ref))
        )
        finished[stage.ref] = done
    return finished


def _check_data(run: Examined) -> RunData | None:
    folder = run.paths.data
    now = data_digests(folder)
    for name in sorted({*now, *run.record.committed.data}):
        if name not in now:
            run.differs(f"{folder / name}: gone since it was exported")
        else:
            run.count("files of data")
            run.compare(f"data/{name}", now[name], run.record.committed.data.get(name))
    try:
        data = read_run_data(folder)
    except DataError as error:
        run.lacks(error)
        return None
    except StorageError as error:
        run.differs(error)
        return None
    for name, split in data.splits.items():
        if split.labels is not None and not ((split.labels >= 0) & (split.labels < len(data.classes))).all():
            run.differs(f"{folder / name}.labels.npy: labels that are none of the {len(data.classes)} classes")
            return None
    recorded = run.record.data_digests.get(TARGET)
    if recorded != data.digest:
        run.differs(f"{folder / 'dataset.json'}: digest {data.digest[:12]}, run.json has {str(recorded)[:12]}")
    return data


def _check_predictions(
    run: Examined, data: RunData, finished: Mapping[StageRef, Finished]
) -> dict[str, dict[str, MemberPredictions]]:
    """The sound predictions by split and member."""
    wanted = [
        (split, member)
        for split in data.splits
        for member in sorted(run.plan.members)
        # Of a stage that is not finished there are none yet, or an earlier stage's.
        if member not in run.gone and run.paths.done(run.plan.last_stages[member]).exists()
    ]

    def open_one(split: str, member: str) -> MemberPredictions | SeptetError:
        try:
            folder = {member: run.paths.predictions(member)}
            return open_predictions(folder, data.splits[split], len(data.classes), data.digest)[0]
        except SeptetError as error:
            return error

    sound: dict[str, dict[str, MemberPredictions]] = {split: {} for split in data.splits}
    with ThreadPoolExecutor(num_threads(), thread_name_prefix="verify") as threads:
        opened = list(threads.map(lambda pair: open_one(*pair), wanted))
    for (split, member), one in zip(wanted, opened, strict=True):
        if isinstance(one, MemberFailed):
            run.lacks(one)
        elif isinstance(one, SeptetError):
            run.differs(one)
        else:
            run.count("files of predictions")
            done = finished.get(run.plan.last_stages[member])
            if done is not None and one.about.checkpoint_sha256 != done.checkpoint_sha256:
                run.differs(f"member {member}: {one.path} is of another checkpoint than DONE.json names")
            run.compare(
                f"member {member}: {one.path}", one.about.sha256, run.record.committed.of_predictions(member, split)
            )
            sound[split][member] = one
    return sound
