"""The lock, run.json, and what opening a run directory accepts, refuses and leaves behind."""

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
from fake_stages import make_plan, make_stage

from orchestrator.plan.model import StageRef
from orchestrator.run.holder import is_locked, lock
from orchestrator.run.ledger import Ledger, State
from orchestrator.run.open import Wanted, open_run
from orchestrator.run.paths import RunPaths
from orchestrator.run.record import read_record, write_record
from workers.errors import ConfigError, DataError, RunInUse, RunMismatch, StorageError
from workers.protocol import Numerics
from workers.settings.training import Crops, KeptCheckpoint, OptimizerSettings, ScheduleSettings

_HOLD = """
import sys
from pathlib import Path
from orchestrator.run import RunPaths, lock
with lock(RunPaths(Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def _holder(root):
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def _plan(*members, lr=0.01):
    chosen = OptimizerSettings(lr=lr)
    return make_plan(
        *(make_stage(f"{member}/train", optimizer=chosen) for member in members or "ab"), experiment="tried"
    )


def _lasting(epochs):
    """A plan of one stage at a constant rate, which more epochs extend."""
    stage = replace(make_stage("a/train", schedule=ScheduleSettings(epochs=epochs, cuts=0, latest=())), trunk="t")
    return make_plan(replace(stage, hash=f"hash {epochs}"), experiment="tried")


def _wanted(plan=None):
    return Wanted(plan or _plan(), "seed: 0\n", KeptCheckpoint.last, "code 1", {"torch": "2.14"}, lacking=lambda _: "")


def begin(run, pixels="pixels 1", **chosen):
    run.begin(
        {"target": pixels},
        {"target": run.paths.root},
        lambda record: replace(record, **chosen),
        lambda folder: folder.mkdir(exist_ok=True),
    )


def _begin(root, wanted=None, **chosen):
    with open_run(root, wanted or _wanted()) as run:
        begin(run, **chosen)
        run.commit()
    return run.paths


def _everything(root):
    return {str(path.relative_to(root)): path.read_bytes() if path.is_file() else b"" for path in root.rglob("*")}


@contextmanager
def _refused(error, said, root):
    """That what is done is refused, and changes nothing but the lock's own file."""
    before = _everything(root)
    with pytest.raises(error, match=said):
        yield
    after = _everything(root)
    assert after.keys() - before.keys() == set()
    assert {name for name in before if before[name] != after.get(name)} <= {"run/.lock"}


def test_lock_held_by_another_process_names_its_pid_and_host_and_is_free_once_that_is_killed(tmp_path):
    paths = RunPaths(tmp_path)
    with _holder(tmp_path) as process:
        assert is_locked(paths)
        holder = f"process {process.pid} on {re.escape(socket.gethostname())}"
        with pytest.raises(RunInUse, match=holder), lock(paths):
            pass
        process.kill()
        process.wait()
        assert not is_locked(paths)
        with lock(paths):
            assert is_locked(paths)


def test_lock_is_not_inherited_by_a_child_that_outlives_its_holder(tmp_path):
    spawn = "import subprocess; child = subprocess.Popen(['sleep', '250'], stdout=2); print(child.pid, flush=True)"
    words = [sys.executable, "-c", _HOLD.replace('print("held", flush=True)', spawn), str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        child = int(process.stdout.readline())
        process.kill()
    try:
        assert not is_locked(RunPaths(tmp_path))
    finally:
        os.kill(child, signal.SIGKILL)


def test_lock_is_taken_though_somebody_looks_at_it_for_an_instant(tmp_path, monkeypatch):
    paths = RunPaths(tmp_path)
    assert not is_locked(paths) and list(tmp_path.iterdir()) == []
    with paths.lock.open("w") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        monkeypatch.setattr(time, "sleep", lambda _: fcntl.flock(looking, fcntl.LOCK_UN))
        with lock(paths):
            assert is_locked(paths)


def test_record_is_read_as_written_and_names_no_place(tmp_path):
    paths = _begin(tmp_path / "run")
    record = replace(read_record(paths), accepted=("a", "b"), numerics=Numerics(4, "bf16", "cuda"))
    write_record(paths, record)
    assert read_record(paths) == record
    elsewhere = read_record(_begin(tmp_path / "elsewhere"))
    assert (elsewhere.plan, elsewhere.plan_hash) == (record.plan, _plan().hash)
    assert elsewhere.run_id != record.run_id


def test_record_absent_is_a_data_error_and_damaged_a_storage_error(tmp_path):
    with pytest.raises(DataError, match="no run directory"):
        read_record(RunPaths(tmp_path / "nowhere"))
    (tmp_path / "run.json").write_text('{"run_id": ')
    with pytest.raises(StorageError, match=r"run\.json"):
        read_record(RunPaths(tmp_path))


@pytest.mark.parametrize("name", ["crops", "committed", "placement"])
def test_record_that_lacks_an_entry_is_refused_by_name(tmp_path, name):
    paths = _begin(tmp_path / "run")
    record = json.loads(paths.run_json.read_text())
    del record[name]
    paths.run_json.write_text(json.dumps(record))
    with pytest.raises(StorageError, match=rf"run\.json: not readable as a run record \(.*{name}"):
        read_record(paths)


def test_what_killed_writers_left_goes_when_the_run_goes_on_but_for_a_stages_own(tmp_path):
    root = tmp_path / "run"
    own = root / "members/a/train/checkpoints/.tmp-1"
    left = [root / ".tmp-2", root / "members/a/predictions/.tmp-3", root / "report/.tmp-4"]
    _begin(root)
    for path in (own, *left):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    with open_run(root, _wanted()) as run:
        run.commit()
    assert own.exists()
    assert not any(path.exists() for path in left)


def test_open_run_of_the_same_plan_resumes_with_the_id_crops_and_numerics_of_the_first_start(tmp_path):
    settled, wanted = Numerics(threads=8, precision="bf16", kernels="compiled"), replace(_wanted(), crops=Crops.centre)
    first = read_record(_begin(tmp_path / "run", wanted, numerics=settled, placement="8 threads each"))
    with open_run(tmp_path / "run", wanted) as run:
        assert not run.new
        kept = (run.record.run_id, run.record.numerics, run.record.placement, run.record.crops)
        assert kept == (first.run_id, settled, "8 threads each", Crops.centre)
        begin(run, numerics=Numerics(), placement="another")
    assert read_record(run.paths).numerics == settled


def test_open_run_on_a_machine_that_lacks_what_the_run_began_with_is_refused_unless_accepted(tmp_path):
    _begin(tmp_path / "run", numerics=Numerics(precision="bf16", kernels="compiled"))
    elsewhere = replace(_wanted(), lacking=lambda numerics: "kernels" if numerics.kernels == "compiled" else "")
    with _refused(RunMismatch, "lacks kernels", tmp_path), open_run(tmp_path / "run", elsewhere):
        pass
    with open_run(tmp_path / "run", elsewhere, accept_changes=True) as run:
        assert run.record.numerics == Numerics(precision="bf16", kernels="torch")
        begin(run)
    assert any("lacks kernels" in line for line in read_record(run.paths).accepted)
    with open_run(tmp_path / "run", elsewhere):
        pass


def test_open_run_that_began_with_emulated_bf16_goes_on_alike_and_not_where_it_is_in_hardware(tmp_path):
    emulated = replace(_wanted(), lacking=lambda numerics: "bf16" if numerics.precision == "bf16" else "")
    _begin(tmp_path / "run", emulated, numerics=Numerics(precision="bf16"), lacked="bf16")
    with open_run(tmp_path / "run", emulated):
        pass
    with pytest.raises(RunMismatch, match="has bf16"), open_run(tmp_path / "run", _wanted()):
        pass


def test_open_run_of_a_plan_that_adds_a_member_extends_the_run(tmp_path):
    first = read_record(_begin(tmp_path / "run"))
    extended = read_record(_begin(tmp_path / "run", _wanted(_plan("a", "b", "c"))))
    assert extended.run_id == first.run_id
    assert extended.plan["members"] == ["a", "b", "c"]


@pytest.mark.parametrize("keep", KeptCheckpoint)
def test_more_epochs_extend_a_run_unless_its_average_begins_at_a_share_of_them(tmp_path, keep):
    short, long = (replace(_wanted(_lasting(epochs)), keep=keep) for epochs in (2, 3))
    paths = _begin(tmp_path / "run", short)
    if keep is KeptCheckpoint.swa:
        with _refused(RunMismatch, r"predict\.checkpoint=swa begins at a share of all epochs", tmp_path):
            _begin(paths.root, long)
    else:
        assert read_record(_begin(paths.root, long)).shorter == {"a/train": ["hash 2"]}


def test_more_epochs_after_only_averaged_weights_are_left_are_refused(tmp_path):
    paths = _begin(tmp_path / "run", _wanted(_lasting(2)))
    paths.stage(StageRef("a", "train")).mkdir(parents=True)
    paths.done(StageRef("a", "train")).write_text("{}")
    with _refused(RunMismatch, "`septet clean` deleted what training on needs", tmp_path):
        _begin(paths.root, _wanted(_lasting(3)))


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (_wanted(_plan(lr=0.5)), r"another plan: optimizer\.lr: 0\.01 → 0\.5"),
        (_wanted(_plan("a")), "another plan: b/train"),
        (replace(_wanted(), keep=KeptCheckpoint.best), r"another plan: predict\.checkpoint: last → best"),
        (replace(_wanted(), crops=Crops.centre), r"another plan: predict\.crops: ten → centre"),
        (replace(_wanted(), code_digest="code 2"), "--accept-changes"),
    ],
    ids=["setting", "member gone", "checkpoint", "crops", "code"],
)
def test_open_run_that_differs_is_refused_and_nothing_changes(tmp_path, wanted, said):
    _begin(tmp_path / "run")
    with _refused(RunMismatch, said, tmp_path), open_run(tmp_path / "run", wanted):
        pass


def test_open_run_with_other_data_or_in_use_is_refused_and_nothing_changes(tmp_path):
    root = tmp_path / "run"
    _begin(root)
    other = r"datasets\.target .*pixels 1 → pixels 2"
    with _refused(RunMismatch, other, tmp_path), open_run(root, _wanted()) as run:
        begin(run, "pixels 2")
    with _holder(root), _refused(RunInUse, "process", tmp_path), open_run(root, _wanted()):
        pass


def test_open_run_accepting_changes_goes_on_and_records_them(tmp_path):
    root = tmp_path / "run"
    _begin(root)
    wanted = replace(_wanted(), code_digest="code 2")
    with open_run(root, wanted, accept_changes=True) as run:
        begin(run, "pixels 2")
    record = read_record(RunPaths(root))
    assert len(record.accepted) == 2
    assert (record.code_digest, record.data_digests) == ("code 2", {"target": "pixels 2"})
    # Accepted once, they are what the next launch is compared with.
    with open_run(root, wanted) as run:
        begin(run, "pixels 2")


@pytest.mark.parametrize("below", ["deep/down/run", "."])
def test_open_run_never_committed_leaves_no_trace(tmp_path, below):
    with pytest.raises(DataError), open_run(tmp_path / below, _wanted()) as run:
        begin(run)
        raise DataError("a bad image")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["deep/down/run", "."])
def test_open_run_whose_commit_is_taken_back_leaves_no_trace(tmp_path, below):
    """As where a tracking store that the run needs does not answer while the cluster starts."""
    with pytest.raises(ConfigError), open_run(tmp_path / below, _wanted()) as run:
        begin(run)
        run.commit()
        Ledger(run.paths.ledger).set_state(State.running)
        run.committed = False
        raise ConfigError("no store")
    assert list(tmp_path.iterdir()) == []


def test_open_run_committed_stays_whatever_happens(tmp_path):
    with pytest.raises(StorageError), open_run(tmp_path / "run", _wanted()) as run:
        begin(run)
        run.commit()
        raise StorageError("full")
    assert read_record(RunPaths(tmp_path / "run")).experiment == "tried"


def test_open_run_in_a_folder_of_other_files_is_refused_and_nothing_changes(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with _refused(ConfigError, r"has thesis\.tex but no run\.json", tmp_path), open_run(tmp_path, _wanted()):
        pass


def test_open_run_after_a_death_before_run_json_starts_again(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").write_text("{}")
    (tmp_path / "run" / ".tmp-half").write_text("{")
    assert read_record(_begin(tmp_path / "run")).plan_hash == _plan().hash
