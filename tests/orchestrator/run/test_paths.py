"""The lock, run.json, and what opening a run directory accepts, refuses and leaves behind."""

import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.plan.model import Plan, PlannedDataset, Stage, StageRef
from orchestrator.run.holder import is_locked, lock
from orchestrator.run.open import OpenedRun, Wanted, open_run
from orchestrator.run.paths import RunPaths
from orchestrator.run.record import read_record, write_record
from workers.errors import ConfigError, DataError, RunInUse, RunMismatch, StorageError
from workers.protocol import Numerics
from workers.settings.training import Crops, KeptCheckpoint, OptimizerSettings, Recipe

_HOLD = """
import sys
from pathlib import Path
from orchestrator.run import RunPaths, lock
with lock(RunPaths(Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def _holder(root: Path) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def _plan(members: tuple[str, ...] = ("a", "b"), lr: float = 0.01) -> Plan:
    stages = tuple(
        Stage(
            ref=StageRef(member, "train"),
            recipe=Recipe(optimizer=OptimizerSettings(lr=lr), dataset="target"),
            init_from=None,
            member_seed=0,
            seed=1,
            hash=f"{member} at {lr}",
            num_images=10,
            num_updates=10,
            num_classes=2,
        )
        for member in members
    )
    return Plan(
        experiment="tried",
        hash=f"{members} {lr}",
        members=members,
        stages=stages,
        datasets=(PlannedDataset("target", {}, ("x", "y"), 2, {"train": 10}, False),),
        last_stages={member: StageRef(member, "train") for member in members},
    )


def _wanted(plan: Plan | None = None) -> Wanted:
    return Wanted(
        plan or _plan(), "seed: 0\n", KeptCheckpoint.last, "code 1", {"torch": "2.14"}, lacking=lambda numerics: ""
    )


def begin(run: OpenedRun, pixels: str = "pixels 1", **chosen: Any) -> None:
    placed = SimpleNamespace(**{"numerics": Numerics(), "line": "", "lacked": "", **chosen})
    run.begin(
        {"target": pixels}, {"target": run.paths.root}, lambda: placed, lambda folder: folder.mkdir(exist_ok=True)
    )


def _begin(root: Path, wanted: Wanted | None = None, **chosen: Any) -> RunPaths:
    with open_run(root, wanted or _wanted()) as run:
        begin(run, **chosen)
        run.commit()
    return run.paths


def _everything(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() if path.is_file() else b"" for path in root.rglob("*")}


# The lock


def test_lock_held_by_another_process_names_its_pid_and_host(tmp_path: Path) -> None:
    with _holder(tmp_path) as process:
        assert is_locked(RunPaths(tmp_path))
        with (
            pytest.raises(RunInUse, match=f"process {process.pid} on {re.escape(socket.gethostname())}"),
            lock(RunPaths(tmp_path)),
        ):
            pass


def test_lock_of_a_holder_killed_outright_is_free(tmp_path: Path) -> None:
    with _holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not is_locked(RunPaths(tmp_path))
        with lock(RunPaths(tmp_path)):
            assert is_locked(RunPaths(tmp_path))


def test_lock_is_not_inherited_by_a_child_that_outlives_its_holder(tmp_path: Path) -> None:
    spawn = (
        "import subprocess; child = subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL); "
        "print(child.pid, flush=True); sys.stdin.read()"
    )
    code = _HOLD.replace('print("held", flush=True)\n    sys.stdin.read()', spawn)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        process.kill()
        process.communicate()
        assert not is_locked(RunPaths(tmp_path))
    finally:
        os.kill(child, signal.SIGKILL)


def test_is_locked_changes_nothing_on_disk(tmp_path: Path) -> None:
    assert not is_locked(RunPaths(tmp_path))
    assert not is_locked(RunPaths(tmp_path / "absent"))
    assert list(tmp_path.iterdir()) == []


def test_lock_is_taken_while_another_process_looks_at_it(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    with lock(paths):
        pass
    looker = multiprocessing.get_context("spawn").Process(target=_look_often, args=(tmp_path,))
    looker.start()
    try:
        for _ in range(100):
            with lock(paths):
                pass
    finally:
        looker.kill()
        looker.join()


def _look_often(root: Path) -> None:
    while True:
        is_locked(RunPaths(root))


# run.json


def test_record_written_and_read_is_the_same(tmp_path: Path) -> None:
    paths = _begin(tmp_path / "run")
    record = replace(read_record(paths), accepted=("a", "b"), numerics=Numerics(4, "bf16", "cuda"))
    write_record(paths, record)
    assert read_record(paths) == record


def test_record_absent_is_a_data_error_and_damaged_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no run directory"):
        read_record(RunPaths(tmp_path / "nowhere"))
    (tmp_path / "run.json").write_text('{"run_id": ')
    with pytest.raises(StorageError, match=r"run\.json"):
        read_record(RunPaths(tmp_path))


# Opening


def test_what_killed_writers_left_goes_when_the_run_goes_on_but_for_a_stages_own(tmp_path: Path) -> None:
    root = tmp_path / "run"
    own = root / "members/a/train/checkpoints/.tmp-1"
    left = [root / ".tmp-2", root / "members/a/predictions/.tmp-3", root / "report/.tmp-4"]
    with open_run(root, _wanted()) as run:
        begin(run)
        run.commit()
    for path in (own, *left):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    with open_run(root, _wanted()) as run:
        run.commit()
    assert own.exists()
    assert not any(path.exists() for path in left)


def test_open_run_of_the_same_plan_resumes_with_the_id_and_numerics_of_the_first_start(tmp_path: Path) -> None:
    settled = Numerics(threads=8, precision="bf16", kernels="compiled")
    with open_run(tmp_path / "run", _wanted()) as run:
        begin(run, numerics=settled, line="8 threads each")
        run.commit()
    first = read_record(run.paths)
    with open_run(tmp_path / "run", _wanted()) as run:
        assert not run.new
        assert (run.record.run_id, run.record.numerics, run.record.placement) == (
            first.run_id,
            settled,
            "8 threads each",
        )
        begin(run, numerics=Numerics(), line="another")
    assert read_record(run.paths).numerics == settled


def test_open_run_on_a_machine_that_lacks_what_the_run_began_with_is_refused_unless_accepted(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", _wanted()) as run:
        begin(run, numerics=Numerics(precision="bf16", kernels="compiled"))
        run.commit()
    elsewhere = replace(_wanted(), lacking=lambda numerics: "kernels" if numerics.kernels == "compiled" else "")
    before = _everything(tmp_path)
    with pytest.raises(RunMismatch, match="lacks kernels"), open_run(tmp_path / "run", elsewhere):
        pass
    assert _everything(tmp_path) == before
    with open_run(tmp_path / "run", elsewhere, accept_changes=True) as run:
        assert run.record.numerics == Numerics(precision="bf16", kernels="torch")
        begin(run)
    assert any("lacks kernels" in line for line in read_record(run.paths).accepted)
    with open_run(tmp_path / "run", elsewhere):
        pass


def test_open_run_that_began_with_emulated_bf16_goes_on_alike_and_not_where_it_is_in_hardware(tmp_path: Path) -> None:
    emulated = replace(_wanted(), lacking=lambda numerics: "bf16" if numerics.precision == "bf16" else "")
    with open_run(tmp_path / "run", emulated) as run:
        begin(run, numerics=Numerics(precision="bf16"), lacked="bf16")
        run.commit()
    with open_run(tmp_path / "run", emulated):
        pass
    with pytest.raises(RunMismatch, match="has bf16"), open_run(tmp_path / "run", _wanted()):
        pass


def test_open_run_of_a_plan_that_adds_a_member_extends_the_run(tmp_path: Path) -> None:
    first = read_record(_begin(tmp_path / "run"))
    extended = read_record(_begin(tmp_path / "run", _wanted(_plan(("a", "b", "c")))))
    assert extended.run_id == first.run_id
    assert extended.plan["members"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (_wanted(_plan(lr=0.5)), r"another plan: optimizer\.lr: 0\.01 → 0\.5"),
        (_wanted(_plan(("a",))), "another plan: b/train"),
        (replace(_wanted(), keep=KeptCheckpoint.best), r"another plan: predict\.checkpoint: last → best"),
        (replace(_wanted(), crops=Crops.centre), r"another plan: predict\.crops: ten → centre"),
        (replace(_wanted(), code_digest="code 2"), "--accept-changes"),
    ],
    ids=["setting", "member gone", "checkpoint", "crops", "code"],
)
def test_open_run_that_differs_is_refused_and_nothing_changes(tmp_path: Path, wanted: Wanted, said: str) -> None:
    root = tmp_path / "run"
    _begin(root)
    (root / ".lock").unlink()
    before = _everything(tmp_path)
    with pytest.raises(RunMismatch, match=said), open_run(root, wanted):
        pass
    assert _everything(tmp_path) == before


def test_open_run_keeps_the_crops_of_its_first_start(tmp_path: Path) -> None:
    wanted = replace(_wanted(), crops=Crops.centre)
    assert read_record(_begin(tmp_path / "run", wanted)).crops is Crops.centre
    with open_run(tmp_path / "run", wanted) as run:
        assert run.record.crops is Crops.centre
    with pytest.raises(RunMismatch, match=r"predict\.crops: centre → ten"), open_run(tmp_path / "run", _wanted()):
        pass


@pytest.mark.parametrize("name", ["crops", "committed", "placement"])
def test_record_that_lacks_an_entry_is_refused_by_name(tmp_path: Path, name: str) -> None:
    paths = _begin(tmp_path / "run")
    record = json.loads(paths.run_json.read_text())
    del record[name]
    paths.run_json.write_text(json.dumps(record))
    with pytest.raises(StorageError, match=rf"run\.json: not readable as a run record \(.*{name}"):
        read_record(paths)


def test_open_run_with_other_data_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    root = tmp_path / "run"
    _begin(root)
    before = _everything(tmp_path)
    with pytest.raises(RunMismatch, match=r"datasets\.target .*pixels 1 → pixels 2"), open_run(root, _wanted()) as run:
        begin(run, "pixels 2")
    after = _everything(tmp_path)
    assert after.keys() == before.keys()
    assert {name for name in before if before[name] != after[name]} <= {"run/.lock"}


def test_open_run_accepting_changes_goes_on_and_records_them(tmp_path: Path) -> None:
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


def test_open_run_never_committed_leaves_no_trace(tmp_path: Path) -> None:
    with pytest.raises(DataError), open_run(tmp_path / "deep" / "down" / "run", _wanted()) as run:
        begin(run)
        raise DataError("a bad image")
    assert list(tmp_path.iterdir()) == []


def test_open_run_never_committed_in_an_empty_folder_leaves_it_empty(tmp_path: Path) -> None:
    with pytest.raises(ConfigError), open_run(tmp_path, _wanted()) as run:
        begin(run)
        raise ConfigError("nobody listens")
    assert list(tmp_path.iterdir()) == []


def test_open_run_committed_stays_whatever_happens(tmp_path: Path) -> None:
    with pytest.raises(StorageError), open_run(tmp_path / "run", _wanted()) as run:
        begin(run)
        run.commit()
        raise StorageError("full")
    assert read_record(RunPaths(tmp_path / "run")).experiment == "tried"


def test_open_run_in_a_folder_of_other_files_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match=r"has thesis\.tex but no run\.json"), open_run(tmp_path, _wanted()):
        pass
    assert _everything(tmp_path) == {"thesis.tex": b"precious"}


def test_open_run_after_a_death_before_run_json_starts_anew(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").write_text("{}")
    (tmp_path / "run" / ".tmp-half").write_text("{")
    assert read_record(_begin(tmp_path / "run")).plan_hash == _plan().hash


def test_open_run_in_use_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    root = tmp_path / "run"
    _begin(root)
    with _holder(root):
        before = _everything(tmp_path)
        with pytest.raises(RunInUse), open_run(root, _wanted()):
            pass
        assert _everything(tmp_path) == before


def test_record_keeps_no_path_of_the_plan_in_its_hash(tmp_path: Path) -> None:
    here, there = (read_record(_begin(tmp_path / name)) for name in ("here", "there"))
    assert here.plan == there.plan
    assert here.run_id != there.run_id
    assert json.loads((tmp_path / "here" / "run.json").read_text())["plan_hash"] == _plan().hash
