"""`septet launch` as a process of its own that waits at a chosen moment, for tests that then send it a signal.

Arguments: the moment, the marker file that says it has come, the words of the command line. But for `ray` and `never on
Ray` the members train one after another in this very process.
"""

import math
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from one_slot import one_slot

from orchestrator import cluster, launching as launch
from orchestrator.cli import program as cli
from orchestrator.cluster import ray_nodes
from orchestrator.execution import signals as interrupts
from orchestrator.placement import choice as placement, measuring as side_by_side
from orchestrator.submission import write as submission
from orchestrator.tracking import mlflow_tracker as tracking_runs
from workers.inference import prediction as predict
from workers.training import loop

# Added to a moment, it takes out what answers a closed terminal.
UNPROTECTED = ", SIGHUP unanswered"
# A whole cluster is somewhere; the second takes out what looks whether its head is there.
ON_A_CLUSTER, UNWATCHED = "never on Ray", "never on Ray, its head unwatched"
# Whose attribute is held, and whether for as long as nothing interrupts it: a step or a block of predictions is held
# for a moment each, since the loop around it is asked to stop in between.
MOMENTS: dict[str, tuple[Any, str, float]] = {
    "survey": (launch, "survey_all", 60.0),
    "preparing": (launch, "prepare_all", 60.0),
    "measuring": (side_by_side, "_rate", 60.0),
    "tracking": (tracking_runs.MlflowTracker, "wait_until_open", 60.0),
    "training": (loop, "_update", 0.05),
    "predicting": (predict, "mean_over_crops", 0.05),
    "submission": (submission, "check_submission", 60.0),
}


def _held(plain: Callable[..., Any], marker: Path, pause_s: float) -> Callable[..., Any]:
    def wait(*arguments: Any, **named: Any) -> Any:
        marker.touch()
        give_up = time.monotonic() + pause_s
        while time.monotonic() < give_up:
            time.sleep(0.01)
        return plain(*arguments, **named)

    return wait


def run(moment: str, marker: Path, words: list[str]) -> int:
    if moment == "ray":
        import ray

        # Not held: what is started at the time is Ray's own, process by process.
        ray.init = _held(ray.init, marker, 0.0)
    elif moment == UNWATCHED:
        ray_nodes.Head.look = lambda _: True  # type: ignore[method-assign]
    elif moment != ON_A_CLUSTER:
        cluster.open_cluster = one_slot  # type: ignore[assignment]
    if moment.endswith(UNPROTECTED):
        moment = moment.removesuffix(UNPROTECTED)
        interrupts._SIGNALS = (signal.SIGINT, signal.SIGTERM)
        cli._sigterm_raises = nullcontext  # type: ignore[assignment]
    if moment == "measuring":
        placement.SHARE_OF_BUSY = math.inf
    if moment in MOMENTS:
        owner, name, pause_s = MOMENTS[moment]
        setattr(owner, name, _held(getattr(owner, name), marker, pause_s))
    return cli.main(words)


if __name__ == "__main__":
    # Ray reads these as it is imported, before a launch can set them.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    sys.exit(run(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))
