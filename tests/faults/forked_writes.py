"""Writes artefacts in children forked from a process that has imported all it needs, for a tracer to kill one by one.

`python forked_writes.py` answers on stdout to lines on stdin. `JOB <tab> with or without fsync <tab> FOLDER` forks a
child, which waits, and gives its pid; `go` lets it write, and gives its exit code, negative for a signal. A child ends
as `septet` does: an error of ours is one line on stderr and its exit code.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from orchestrator.combine.averaging import mean
from orchestrator.combine.predictions import MemberPredictions
from orchestrator.config.schema import SubmissionConfig, SubmissionFormat
from orchestrator.plan.model import Plan, Stage, StageRef
from orchestrator.run import Book, Committed
from orchestrator.run.data import RunData, SplitData
from orchestrator.run.ledger import Ledger, State
from orchestrator.run.paths import RunPaths
from orchestrator.run.record import RunRecord, write_record
from orchestrator.submission import write as submission
from workers.errors import SeptetError
from workers.protocol import Numerics, SplitPredictions, StageResult
from workers.settings.training import Recipe
from workers.storage import atomic, checkpoint
from workers.storage.finished import write_finished

OLD_STEP, NEW_STEP = 8, 12
CLASSES = ("ant", "bee", "cat")
NUM_ROWS = 6


def tensors(step: int) -> dict[str, np.ndarray]:
    """Weights that tell of which step they are, in more than one write."""
    return {f"{name}.weight": np.full((64, 32), step, np.float32) for name in ("conv1", "fc8")}


def save_checkpoint(folder: Path, step: int) -> None:
    """Does what a stage does: resumes from its newest checkpoint, comes to `step`, and saves."""
    checkpoint.newest_checkpoint(folder)
    checkpoint.write_checkpoint(folder, step, tensors(step), tensors(-step), {"step": step}, {"stage_hash": "s"})
    checkpoint.prune(folder, ())


def old_checkpoints(folder: Path) -> None:
    for step in (OLD_STEP - 4, OLD_STEP):
        save_checkpoint(folder, step)
    # A writer killed before: the next one's cleaning is swept too.
    leftover = folder / ".tmp-step-00000012-before"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")


def new_checkpoint(folder: Path) -> None:
    save_checkpoint(folder, NEW_STEP)


def write_submission(folder: Path, number: int, kind: SubmissionFormat) -> None:
    rows = tuple(f"{row}.png" for row in range(NUM_ROWS))
    split = SplitData("test", rows, "r", None, np.ones((NUM_ROWS, 2), np.int32), ())
    # Outside what is swept: members are read, never written here.
    with tempfile.TemporaryDirectory() as outside:
        path = Path(outside, "a.npy")
        generator = np.random.default_rng(number)
        np.save(path, generator.dirichlet(np.ones(len(CLASSES)), NUM_ROWS).astype(np.float32))
        offset = int(np.load(path, mmap_mode="r").offset)
        about = SplitPredictions("test", NUM_ROWS, len(CLASSES), "r", "d", "s", "c", "w")
        members = (MemberPredictions("a", path, about, offset),)
        kept = [Committed()]
        data = RunData("d", CLASSES, {"test": split})
        stage = Stage(StageRef("a", "train"), Recipe(), None, 0, 0, f"hash-{number}", NUM_ROWS, 1, len(CLASSES))
        plan = Plan("digits", "hash", ("a",), {"a": stage.ref}, (), (stage,))
        config, book = SubmissionConfig(kind), Book(lambda: kept[-1], kept.append)
        submission.write_submission(folder / "submission", config, data, mean(members), members, plan, (), book)


def old_submission(folder: Path) -> None:
    write_submission(folder, 1, SubmissionFormat.labels)
    (folder / "submission" / ".tmp-submission.csv").write_bytes(b"half")


def new_submission(folder: Path) -> None:
    write_submission(folder, 2, SubmissionFormat.labels)


def submission_of_another_format(folder: Path) -> None:
    write_submission(folder, 2, SubmissionFormat.ilsvrc)


def write_records(folder: Path, number: int) -> None:
    """run.json, the ledger and DONE.json, as a launch writes them, after a launch's cleaning."""
    paths = RunPaths(folder)
    for inside, _, _ in os.walk(folder):
        atomic.remove_leftovers(Path(inside))
    write_record(paths, RunRecord("id", "digits", {}, "plan", 0.0, {}, f"code-{number}", Numerics()))
    write_finished(paths.members / "a" / "train", f"hash-{number}", StageResult(9, 0, "step-9", "s", 0.1, 0.1, False))
    Ledger(paths.ledger).set_state(State.running if number == 1 else State.done)


def old_records(folder: Path) -> None:
    write_records(folder, 1)


def new_records(folder: Path) -> None:
    write_records(folder, 2)


Job = Callable[[Path], None]
BEFORE: dict[str, Job] = {"checkpoint": old_checkpoints, "submission": old_submission, "records": old_records}
JOBS: dict[str, Job] = {
    "checkpoint": new_checkpoint,
    "submission": new_submission,
    "submission/format": submission_of_another_format,
    "records": new_records,
}


def _child(job: str, fsync: str, folder: Path, ready: int, gate: int) -> int:
    try:
        if fsync == "without":
            os.fsync = lambda descriptor: None
        with (folder.parent / "err.txt").open("wb") as err:
            os.dup2(err.fileno(), 2)
        # What comes before is not traced, however late the tracer attaches: calls are counted from here.
        os.write(ready, b".")
        os.read(gate, 1)
        JOBS[job](folder)
    except SeptetError as error:
        os.write(2, f"{error}\n".encode())
        return error.exit_code
    except BaseException as error:  # noqa: BLE001 – the child's end, as the command line's
        os.write(2, f"internal error: {type(error).__name__}: {error}\n".encode())
        return 1
    return 0


def _serve() -> None:
    for line in sys.stdin:
        job, fsync, folder = line.rstrip("\n").split("\t")
        (is_ready, ready), (gate, open_gate) = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            os._exit(_child(job, fsync, Path(folder), ready, gate))
        os.read(is_ready, 1)
        _answer(child)
        assert sys.stdin.readline() == "go\n"
        os.write(open_gate, b".")
        _, status = os.waitpid(child, 0)
        for descriptor in (is_ready, ready, gate, open_gate):
            os.close(descriptor)
        _answer(os.waitstatus_to_exitcode(status))


def _answer(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    # Once here, so that no child imports anything: the calls of all children are the same.
    for _name, _job in JOBS.items():
        _scratch = Path(tempfile.mkdtemp())
        BEFORE[_name.partition("/")[0]](_scratch)
        _job(_scratch)
        shutil.rmtree(_scratch)
    _serve()
