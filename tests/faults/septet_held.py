"""`septet` as a process of its own that waits at a chosen moment, for tests that then send it a signal or kill it.

Arguments: the moment (`never` for none; `training 6` is the sixth update), the marker file that says it has come, the
words of the command line. A held launch waits until the marker is deleted or its members are told to stop, however slow
the machine is. Members train in threads of this process, one at a time, in place of Ray, but for Ray's own moments.

At the moment `faulty` members go wrong in processes of Ray's, by name: `failing` always raises; `diverging` meets a NaN
whenever it makes update 2, `passing` the first time alone. Each injection is a byte in a file beside the marker.
"""

import itertools
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from one_slot import one_slot

from orchestrator import cluster, launching
from orchestrator.cli import program
from orchestrator.cluster import ray_backend, ray_head
from orchestrator.cluster.actor import Duties, MemberActor, worker_duties
from orchestrator.execution import signals
from orchestrator.placement import choice, measuring
from orchestrator.submission import write
from orchestrator.tracking import tracker
from workers.inference import prediction
from workers.protocol import StageResult, StageSpec
from workers.training import loop

NEVER = "never"
# Ray starts, process by process, and is not held; nobody looks whether the head of the cluster is there.
RAY, UNWATCHED, FAULTY = "ray", "unwatched", "faulty"
POISONED_UPDATE = 2
# Added to a moment, it takes out what answers a closed terminal.
UNPROTECTED = ", SIGHUP unanswered"
# Whose attribute is held.
MOMENTS: dict[str, tuple[Any, str]] = {
    "survey": (launching, "survey_all"),
    "preparing": (launching, "prepare_all"),
    "measuring": (measuring, "_rate"),
    "tracking": (tracker.Tracker, "wait_until_open"),
    "training": (loop._Update, "make"),
    "predicting": (prediction, "mean_over_crops"),
    "submission": (write, "check_submission"),
}
LONGEST_S = 240.0
_told_to_stop = threading.Event()


def _held(plain: Callable[..., Any], marker: Path, num_calls: int) -> Callable[..., Any]:
    """`plain`, held from that call on; the marker says that the moment has come."""
    calls, has_come = itertools.count(1), threading.Event()

    def wait(*arguments: Any, **named: Any) -> Any:
        if next(calls) >= num_calls:
            if not has_come.is_set():
                has_come.set()
                marker.touch()
            give_up = time.monotonic() + LONGEST_S
            while marker.exists() and not _told_to_stop.is_set() and time.monotonic() < give_up:
                time.sleep(0.01)
        return plain(*arguments, **named)

    return wait


def _stop(plain: Callable[[MemberActor], None], actor: MemberActor) -> None:
    plain(actor)
    _told_to_stop.set()


def _faulty(injected: Path) -> Callable[[], Duties]:
    """Nested, so that Ray sends it by value."""

    def run_stage(spec: StageSpec, should_stop: Callable[[], bool]) -> StageResult:
        from workers.training import gradients, loop, stage

        mine = injected / spec.member

        def count() -> None:
            with mine.open("a") as file:
                file.write("x")

        if spec.member == "failing":
            count()
            raise RuntimeError("it always fails")
        make, mean_loss = loop._Update.make, gradients.mean_loss

        def poisoned(of: Any, state: Any) -> Any:
            due = spec.member == "diverging" or (spec.member == "passing" and not mine.exists())
            if state.step == POISONED_UPDATE and due:
                count()
                gradients.mean_loss = lambda *given: mean_loss(*given) * float("nan")
            return make(of, state)

        loop._Update.make = poisoned
        try:
            return stage.run_stage(spec, should_stop)
        finally:
            loop._Update.make, gradients.mean_loss = make, mean_loss

    return lambda: replace(worker_duties(), run_stage=run_stage)


def run(moment: str, marker: Path, words: list[str]) -> int:
    if moment == RAY:
        import ray

        plain_init = ray.init
        ray.init = lambda *arguments, **named: (marker.touch(), plain_init(*arguments, **named))[1]
    elif moment == FAULTY:
        ray_backend.RayCluster = partial(ray_backend.RayCluster, duties=_faulty(marker.parent))  # type: ignore[misc,assignment]
        marker.touch()
    elif moment == UNWATCHED:
        ray_head.Head.look = lambda _: True  # type: ignore[method-assign]
        marker.touch()
    else:
        cluster.open_cluster = one_slot  # type: ignore[assignment]
    if moment.endswith(UNPROTECTED):
        moment = moment.removesuffix(UNPROTECTED)
        signals._SIGNALS = (signal.SIGINT, signal.SIGTERM)
        program._sigterm_raises = nullcontext  # type: ignore[assignment]
    if moment == "measuring":
        choice.SHARE_OF_BUSY = math.inf
    moment, _, number = moment.partition(" ")
    if moment in MOMENTS:
        plain_stop = MemberActor.stop
        MemberActor.stop = lambda actor: _stop(plain_stop, actor)  # type: ignore[method-assign]
        owner, name = MOMENTS[moment]
        setattr(owner, name, _held(getattr(owner, name), marker, int(number or 1)))
    return program.main(words)


if __name__ == "__main__":
    # Ray reads these as it is imported, before a launch can set them.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    sys.exit(run(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))
