"""Trains a stage and kills its own process after some updates: what a lost node does."""

import os
import signal
import sys

from benchmarks.gpu_check.bits import KILLED_AFTER, killed_stage
from workers.training import run_stage


def main() -> None:
    updates = 0

    def should_stop() -> bool:
        nonlocal updates
        updates += 1
        if updates == KILLED_AFTER:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    run_stage(killed_stage(sys.argv[1:]), should_stop)


if __name__ == "__main__":
    main()
