"""Compares a run's files with each other and with run.json, and makes its submission again (`septet verify`).

Takes no lock and changes nothing. Lists every problem: what `differs` from what was committed, and what is `missing`
because the run is not finished.
"""

from collections.abc import Mapping
from pathlib import Path

from orchestrator.combine import Expected, Flaw, Invalid, MemberPredictions, check_predictions, in_words
from orchestrator.config import TARGET
from orchestrator.plan import StageRef, plan_from_json
from orchestrator.run import RunData, RunPaths, data_digests, find_finished, is_locked, read_record, read_run_data
from orchestrator.submission import Manifest, find_manifest
from orchestrator.verification.findings import Examined, Verification
from orchestrator.verification.submission import check_report, check_submission
from workers.data.store import damaged_files, read_store
from workers.errors import DataError, SeptetError, StorageError, StorageSilent
from workers.settings import OUT_OF_FOLD
from workers.storage import Finished, layout, sha256_of, verify_checkpoint
from workers.threads import map_in_order


def verify(paths: RunPaths) -> Verification:
    """Checks everything that a run has on disk.

    Raises:
        DataError: there is no run directory.
        StorageError: run.json is damaged, without which nothing can be checked.
    """
    record = read_record(paths)
    run = Examined(paths, record, plan_from_json(record.plan))
    locked = is_locked(paths)
    run.manifest = _read_manifest(run)
    finished = _check_stages(run)
    data = _check_data(run)
    _check_stores(run)
    predictions = _check_predictions(run, data, finished) if data else {}
    if run.manifest is not None:
        check_submission(run, run.manifest, data, predictions)
        if data is not None:
            check_report(run, run.manifest, data, finished, predictions)
    if locked and run.problems:
        run.notes.append("a launch is running here: verify again once it has ended")
    anchor = paths.submission_manifest
    return Verification(
        tuple(run.problems), tuple(run.notes), run.checked, run.rebuilt, sha256_of(anchor) if anchor.is_file() else None
    )


def _read_manifest(run: Examined) -> Manifest | None:
    try:
        manifest = find_manifest(run.paths)
    except StorageError as error:
        run.differs(error)
        return None
    if manifest is None:
        run.lacks("submission: not written yet")
    return manifest


def _check_stages(run: Examined) -> dict[StageRef, Finished]:
    """Returns the valid DONE.json of each stage, after reading its whole checkpoint."""
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
            done = find_finished(run.paths, stage)
            if done is None:
                run.differs(f"{folder}: {layout.DONE} is of other settings than run.json's plan")
                continue
            checkpoint = verify_checkpoint(run.paths.checkpoints(stage.ref) / done.checkpoint)
        except StorageSilent:
            raise
        except StorageError as error:
            run.differs(error)
            continue
        run.count("checkpoints")
        if checkpoint.model_sha256 != done.checkpoint_sha256:
            run.differs(f"{checkpoint.folder}: its weights are not those named in DONE.json")
        run.compare(
            f"{stage.ref}: its checkpoint", checkpoint.model_sha256, run.record.committed.stages.get(str(stage.ref), "")
        )
        finished[stage.ref] = done
    return finished


def _check_data(run: Examined) -> RunData | None:
    folder = run.paths.data
    now = data_digests(folder)
    for name in sorted({*now, *run.record.committed.data}):
        if name not in now:
            run.differs(f"{folder / name}: deleted since it was exported")
        else:
            run.count("files of data")
            run.compare(f"data/{name}", now[name], run.record.committed.data.get(name, ""))
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
            run.differs(f"{folder / layout.labels(name)}: has labels outside its {len(data.classes)} classes")
            return None
    recorded = run.record.data_digests.get(TARGET)
    if recorded != data.digest:
        run.differs(f"{folder / layout.DATASET}: digest {data.digest[:12]}, run.json has {str(recorded)[:12]}")
    return data


def _check_stores(run: Examined) -> None:
    """Reads every prepared dataset that is still in its place."""
    for name, path in run.record.stores.items():
        try:
            store = read_store(Path(path))
        except StorageError as error:
            run.notes.append(f"datasets.{name}: not checked: {error}")
            continue
        for damaged in damaged_files(store.path, store.files):
            run.differs(f"{store.path / damaged}: damaged (datasets.{name})")
        if store.digest != run.record.data_digests.get(name):
            run.differs(f"{store.path}: digest {store.digest[:12]} of datasets.{name} is not run.json's")
        run.count("prepared datasets")


def _check_predictions(
    run: Examined, data: RunData, finished: Mapping[StageRef, Finished]
) -> dict[str, dict[str, MemberPredictions]]:
    """Returns the valid predictions by split and member."""

    def is_done(member: str) -> bool:
        return run.paths.done(run.plan.last_stages[member]).exists()

    wanted = [
        (split, member)
        for split in data.splits
        for member in sorted(run.plan.members)
        if split != OUT_OF_FOLD or run.plan.fold(member).k or member in run.plan.outside
        # A stage that is not finished has no predictions, or an earlier stage's.
        if member not in run.gone and (split in files if (files := run.plan.outside.get(member)) else is_done(member))
    ]

    def check(split: str, member: str) -> MemberPredictions | Invalid:
        files, recorded = run.plan.outside.get(member), run.record.committed.of_predictions(member, split)
        source = files[split] if files else finished.get(run.plan.last_stages[member])
        rows = data.part(split, run.plan.fold(member))
        expected = Expected(data.digest, rows, len(data.classes), source, recorded)
        try:
            return check_predictions(member, run.paths.predictions(member), split, expected)
        except SeptetError as error:
            return Invalid(Flaw.damaged, str(error))

    sound: dict[str, dict[str, MemberPredictions]] = {split: {} for split in data.splits}
    for (split, member), one in zip(wanted, map_in_order(lambda pair: check(*pair), wanted), strict=True):
        if isinstance(one, Invalid) and one.flaw is Flaw.missing:
            run.lacks(one.why)
        elif isinstance(one, Invalid):
            run.differs(one.why)
        else:
            run.count("files of predictions")
            sound[split][member] = one
    return sound
