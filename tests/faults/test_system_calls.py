"""SIGKILL, and errors, at every system call with which a checkpoint, a submission and the run's records are written.

A kill is delivered as the call is entered: the one at a call is also the one just after the call before it. strace is
Debian's package of that name; where it is absent or may not trace, these tests are skipped and say so. A kill cannot
show a missing fsync, since the page cache outlives the process: that is what the order of the calls is for.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from forked_writes import BEFORE, JOBS, NEW_STEP, OLD_STEP, tensors
from oracle import submission_state
from stored import read_checkpoint
from system_calls import Call, ForkedWrites, strace_refuses

from workers.storage.checkpoint import newest_checkpoint

REFUSED = strace_refuses()
pytestmark = pytest.mark.skipif(bool(REFUSED), reason=REFUSED)
KILLED = -9
TREE = dict[str, bytes]
# With what a disk answers, and which calls it answers so.
ERRORS = {
    "EIO": ("fsync", "rename", "renameat2", "write", "openat", "unlink", "unlinkat", "chmod", "mkdir"),
    "ENOSPC": ("write", "openat", "mkdir", "rename", "fsync"),
}
# Too late to stop what has been committed, or only tidying: the answer may also be that all went well.
_MAY_PASS = ("unlink", "unlinkat", "rmdir")


def tree(folder):
    """Every file by path, and every empty folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"folder"
        for path in folder.rglob("*")
        if path.is_file() or not any(path.iterdir())
    }


@dataclass(frozen=True)
class Sweep:
    """One job, its calls, and the trees before and after it; `before` still has what a killed writer left."""

    job: str
    writes: ForkedWrites
    origin: Path
    calls: list[Call]
    before: TREE
    after: TREE

    def run(self, place, inject):
        """The job in a fresh copy of what was there before it."""
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.origin, place)
        return self.writes.run(self.job, place, inject=inject)

    def again(self, place):
        """Lets the next process resume from whatever is there, undisturbed."""
        assert self.writes.run(self.job, place) == 0, (place.parent / "err.txt").read_text()

    def expect_whole(self, place):
        """Fails on a mix; says whether it is the new one."""
        return READERS[self.job](self, place)


@pytest.fixture(scope="module")
def writes():
    found = ForkedWrites()
    yield found
    found.close()


# Another format differs from the same one in what it removes: in the soak.
SOAK = ("submission/format",)


@pytest.fixture(
    scope="module", params=[pytest.param(job, marks=pytest.mark.soak if job in SOAK else ()) for job in JOBS]
)
def sweep(request, writes, tmp_path_factory):
    return make_sweep(request.param, writes, tmp_path_factory.mktemp("sweep"))


def make_sweep(job, writes, folder, *, with_fsync=True):
    origin, done = folder / "before" / "run", folder / "after" / "run"
    origin.mkdir(parents=True)
    BEFORE[job.partition("/")[0]](origin)
    shutil.copytree(origin, done)
    calls = writes.calls(job, done, with_fsync=with_fsync)
    return Sweep(job, writes, origin, calls, tree(origin), tree(done))


def _whole_checkpoint(sweep, place):
    # A reader sets corrupt ones aside and cleans: on a copy, so that the next process finds what the kill left.
    copy = place.parent / "read"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(place, copy)
    for folder in copy.glob("step-*"):
        # Pruning takes away the oldest piece by piece; whatever is newer must be whole.
        if folder.name >= f"step-{OLD_STEP:08d}":
            read_checkpoint(folder)
    found = newest_checkpoint(copy)
    assert found is not None
    step = found.checkpoint.step
    assert step in (OLD_STEP, NEW_STEP)
    assert found.state == {"step": step}
    for kind, sign in ((found.model, 1), (found.optimizer, -1)):
        wanted = tensors(sign * step)
        assert kind.keys() == wanted.keys()
        assert all(np.array_equal(kind[name], wanted[name]) for name in wanted)
    assert not list(copy.glob("corrupt-*"))
    return step == NEW_STEP


def _whole_submission(sweep, place):
    def files(found):
        inside = {name.partition("/")[2]: data for name, data in found.items() if name.startswith("submission/")}
        return {name: data for name, data in inside.items() if not name.startswith(".tmp-")}

    return submission_state(files(tree(place)), files(sweep.before), files(sweep.after)) == "new"


def _whole_records(sweep, place):
    found = {name: data for name, data in tree(place).items() if ".tmp-" not in name}
    assert found.keys() == sweep.after.keys()
    new = [name for name, data in found.items() if data == sweep.after[name]]
    old = [name for name, data in found.items() if data == sweep.before[name]]
    assert set(new) | set(old) == found.keys()
    return len(new) == len(found)


READERS: dict[str, Callable[[Sweep, Path], bool]] = {
    "checkpoint": _whole_checkpoint,
    "submission": _whole_submission,
    "submission/format": _whole_submission,
    "records": _whole_records,
}


def _expect_end_state(sweep, place):
    """The undisturbed tree, byte for byte: nothing missing, nothing left over. A ledger counts its launches."""
    found, wanted = tree(place), dict(sweep.after)
    for each in (found, wanted):
        if "ledger.json" in each:
            each["ledger.json"] = json.dumps(json.loads(each["ledger.json"]) | {"launch": 0}).encode()
    assert found == wanted


def test_kill_at_every_call_leaves_the_old_or_the_new(sweep, tmp_path):
    place, states = tmp_path / "run", []
    for call in sweep.calls:
        code = sweep.run(place, f"{call.name}:signal=KILL:when={call.number}")
        assert code == KILLED, f"no kill at {call}"
        try:
            states.append(sweep.expect_whole(place))
            sweep.again(place)
            _expect_end_state(sweep, place)
        except (AssertionError, OSError) as error:
            raise AssertionError(f"killed at {call}: {error}") from error
    # All calls of the whole: before the commit the old one, after it the new one, and never back.
    assert len(states) == len(sweep.calls) >= 15
    assert states == sorted(states)
    assert not states[0]
    if sweep.job != "records":
        assert states[-1]


@pytest.mark.slow
@pytest.mark.parametrize("error", ["ENOSPC", pytest.param("EIO", marks=pytest.mark.soak)])
def test_error_at_every_call_leaves_the_old_or_the_new(sweep, error, tmp_path):
    place, num_refused = tmp_path / "run", 0
    for call in sweep.calls:
        reads = call.name == "openat" and "O_CREAT" not in call.text
        # A disk is never too full to read; a checkpoint that cannot be read is set aside, which has tests of its own.
        unasked = reads and (error == "ENOSPC" or "/step-" in call.paths[0])
        if call.name not in ERRORS[error] or unasked or "= -1" in call.text:
            continue
        code = sweep.run(place, f"{call.name}:error={error}:when={call.number}")
        told = (tmp_path / "err.txt").read_text()
        try:
            new = sweep.expect_whole(place)
            if code == 0:
                tidies = call.name in _MAY_PASS or "O_DIRECTORY" in call.text or "/.tmp-" in call.paths[0]
                assert new and tidies, "exit 0 over a call that failed"
            else:
                assert code == 7, told
                assert len(told.splitlines()) == 1 and str(place) in told, told
                num_refused += 1
            sweep.again(place)
            _expect_end_state(sweep, place)
        except (AssertionError, OSError) as failed:
            raise AssertionError(f"{error} at {call}: {failed}") from failed
    assert num_refused >= 3


@pytest.mark.parametrize("answer", ["EINVAL", "ENOSYS"])
def test_file_system_without_exchange_gets_the_new_submission(writes, tmp_path, answer):
    """As NFS and older kernels answer; a rename that fails after that leaves the old one."""
    sweep = make_sweep("submission", writes, tmp_path / "sweep")
    assert sum(call.name == "renameat2" for call in sweep.calls) == 1, "nothing is exchanged"
    place = tmp_path / "run"
    assert sweep.run(place, f"renameat2:error={answer}") == 0, (tmp_path / "err.txt").read_text()
    assert sweep.expect_whole(place)
    _expect_end_state(sweep, place)


def committed_in_order(calls):
    """What breaks the order that survives a loss of power, empty for nothing.

    At each rename to a name that is no temporary one: every file written below the old name was fsynced after its last
    change, the manifest was opened after all others were, the folder itself was fsynced, and the parent is after it.
    """
    broken, unsynced, waiting = [], {}, None
    for call in calls:
        path = call.paths[0]
        if waiting is not None and call.name == "fsync" and path == waiting:
            waiting = None
        if call.changes:
            if path.endswith("/MANIFEST.json") and "O_CREAT" in call.text:
                early = [name for name in unsynced if Path(name).parent == Path(path).parent]
                broken += [f"{path} is begun before fsync of {name}" for name in early]
            unsynced[path] = call
            # A new name in a folder is durable with the folder.
            if "O_CREAT" in call.text:
                unsynced[str(Path(path).parent)] = call
        elif call.name in {"fsync", "fdatasync"}:
            unsynced.pop(path, None)
        elif call.name in {"rename", "renameat", "renameat2"}:
            if waiting is not None:
                broken.append(f"{waiting} is not fsynced before {call}")
            source, target = call.paths[:2]
            if ".tmp-" not in Path(target).name:
                inside = [name for name in unsynced if name == source or name.startswith(f"{source}/")]
                broken += [f"{call}: before fsync of {name}" for name in inside]
                waiting = str(Path(target).parent)
            for name in [name for name in unsynced if name == source or name.startswith(f"{source}/")]:
                del unsynced[name]
    if waiting is not None:
        broken.append(f"{waiting} is never fsynced")
    return broken


def test_all_is_durable_before_the_name_that_says_so(sweep):
    assert any(call.name.startswith("rename") for call in sweep.calls)
    assert committed_in_order(sweep.calls) == []


@pytest.mark.soak
def test_fsync_taken_out_breaks_the_order(writes, tmp_path):
    for job in JOBS:
        sweep = make_sweep(job, writes, tmp_path / job, with_fsync=False)
        assert not any(call.name == "fsync" for call in sweep.calls)
        assert len(committed_in_order(sweep.calls)) >= 2, job
