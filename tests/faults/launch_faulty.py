"""`septet` on a real Ray, with members that go wrong in processes of their own.

By name: `failing` always raises; `diverging` meets a NaN whenever it makes update 2, `passing` the first time alone.
Each injection leaves a byte in a file of the member's name in the folder that SEPTET_TEST_INJECTED names.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.cli.program import main
from orchestrator.cluster import ray_backend
from orchestrator.cluster.actor import Duties, worker_duties
from workers.protocol import StageResult, StageSpec

INJECTED = "SEPTET_TEST_INJECTED"
AT = 2


def duties() -> Duties:
    real = worker_duties()
    return replace(real, run_stage=partial(_run_stage, real.run_stage))


def _run_stage(
    real: Callable[[StageSpec, Callable[[], bool]], StageResult], spec: StageSpec, should_stop: Callable[[], bool]
) -> StageResult:
    from workers.training import loop

    if spec.member == "failing":
        _count(spec.member)
        raise RuntimeError("it always fails")
    update, mean_loss = loop._update, loop.mean_loss

    def poisoned(stage: loop.Stage, state: loop.TrainState, *rest: Any) -> loop.TrainState:
        due = spec.member == "diverging" or (spec.member == "passing" and not _path(spec.member).exists())
        if state.step == AT and due:
            _count(spec.member)
            loop.mean_loss = lambda *given: mean_loss(*given) * float("nan")
        return update(stage, state, *rest)

    loop._update = poisoned
    try:
        return real(spec, should_stop)
    finally:
        loop._update, loop.mean_loss = update, mean_loss


def _path(member: str) -> Path:
    return Path(os.environ[INJECTED]) / member


def _count(member: str) -> None:
    with _path(member).open("a") as file:
        file.write("x")


if __name__ == "__main__":
    # By the name that an actor's process finds it under, too.
    import launch_faulty

    ray_backend.RayCluster = partial(ray_backend.RayCluster, duties=launch_faulty.duties)  # type: ignore[misc, assignment]
    sys.exit(main(sys.argv[1:]))
