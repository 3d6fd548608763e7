"""A worker that stops itself (SIGSTOP) at a chosen point of an attempt; tests wake it when a newer one is at work.

Arguments: a pickled StageSpec, where to stop (`before resuming`, `update N`, `before naming step-N`), and how many
updates it may still make once it was woken. Says on stdout how the attempt ended.
"""

import os
import pickle
import signal
import sys
import threading
from pathlib import Path

from workers.training import stage


class Worker:
    """Counts its updates, stops at `where`, and after `left` more once woken it kills itself."""

    def __init__(self, where: str, left: int) -> None:
        self.where, self.left = where, left
        self.num_updates, self.was_stopped = 0, False

    def halt_at(self, place: str) -> None:
        if place == self.where:
            self.was_stopped = True
            # To this thread, which so stops before it does anything else; all others stop with it.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

    def should_stop(self) -> bool:
        self.num_updates += 1
        if self.was_stopped:
            self.left -= 1
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        self.halt_at(f"update {self.num_updates}")
        return False


def main(spec_file: str, where: str, left: str) -> None:
    spec = pickle.loads(Path(spec_file).read_bytes())  # noqa: S301 – the test's own
    worker = Worker(where, int(left))
    plain_rename, plain_begin = Path.rename, stage._begin

    def rename(path, target):
        worker.halt_at(f"before naming {Path(target).name}")
        return plain_rename(path, target)

    def begin(*arguments):
        worker.halt_at("before resuming")
        return plain_begin(*arguments)

    Path.rename, stage._begin = rename, begin
    try:
        stage.run_stage(spec, worker.should_stop)
        sys.stdout.write("trained\n")
    except Exception as error:  # noqa: BLE001 – told to the test
        sys.stdout.write(f"{type(error).__name__}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
