"""Times a launch beside a floor: what is paid before the first image is trained on and after the last one.

The floor is a plain process that starts Ray with its defaults for one machine, starts one actor that imports torch,
makes a new MLflow store in a SQLite file with one experiment and one run meanwhile, and shuts Ray down. The lean floor
does the same with Ray as a launch starts and ends it.

A launch is the digits with `schedule.epochs=1` in an empty folder, from the command to its exit, with one, two and four
members. Its fixed cost is the intercept of the line through these (least squares), and a member more is the slope.
"""

import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import scripts
from benchmarks.row import Measure, Row, Settings, Spread, Wanted

_MEMBERS = (1, 2, 4)
_PLAIN = """
import os, sys
from contextlib import contextmanager
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true"}

@contextmanager
def started():
    import ray
    ray.init(
        address="local", num_cpus=len(os.sched_getaffinity(0)), object_store_memory=80 * 1024 * 1024,
        include_dashboard=False, log_to_driver=False, _temp_dir=sys.argv[1],
    )
    yield
    ray.shutdown()
"""
_LEAN = """
import os
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
from orchestrator.cluster.ray_session import local as started
"""
_WORK = """
class Actor:
    def load(self):
        import torch
        return torch.__version__

with started():
    import ray
    loaded = ray.remote(num_cpus=1)(Actor).remote().load.remote()
    import mlflow
    client = mlflow.MlflowClient("sqlite:///mlflow.db")
    run = client.create_run(client.create_experiment("floor"))
    client.log_metric(run.info.run_id, "loss", 1.0)
    ray.get(loaded)
"""
_FLOORS = {"plain": _PLAIN + _WORK, "lean": _LEAN + _WORK}


def _floor(folder: Path, floor: str) -> float:
    folder.mkdir(parents=True)
    # The path of a socket has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="floor-", dir="/tmp", ignore_cleanup_errors=True) as temporary:
        since = time.perf_counter()
        scripts.call([sys.executable, "-c", _FLOORS[floor], temporary], folder / "log.txt")
        return time.perf_counter() - since


def _launch(folder: Path, num_members: int) -> float:
    words = ("ensemble=five", "schedule.epochs=1", *scripts.first_members(num_members))
    return scripts.launch(folder, *words).seconds


def _line(seconds: Mapping[int, float]) -> tuple[float, float]:
    """Returns slope and intercept."""
    slope, fixed = np.polyfit(list(seconds), list(seconds.values()), deg=1)
    return float(slope), float(fixed)


def run(settings: Settings) -> tuple[Row, ...]:
    """Measures all in turns; the order is reversed from round to round."""
    floors = {floor: list[float]() for floor in _FLOORS}
    launches = {members: list[float]() for members in _MEMBERS}
    for number in range(settings.repeats):
        for turn in (*_FLOORS, *_MEMBERS)[:: 1 if number % 2 == 0 else -1]:
            folder = settings.scratch / f"round-{number}" / str(turn)
            if isinstance(turn, str):
                floors[turn].append(_floor(folder, turn))
            else:
                launches[turn].append(_launch(folder, turn))
    lines = [_line(dict(zip(_MEMBERS, one, strict=True))) for one in zip(*launches.values(), strict=True)]
    slopes, fixed = (list(side) for side in zip(*lines, strict=True))
    note = "; ".join(f"{members}: {Spread.of(seconds).median:.2f} s" for members, seconds in launches.items())
    shared: dict[str, Any] = {"unit": "s", "limit": None, "repeats": settings.repeats}
    return (
        *(
            Row(
                name=f"fixed cost of a launch, digits, beside the {floor} floor",
                ours=Spread.of(fixed).median,
                peer=Spread.of(seconds).median,
                ratio=Spread.of([one / other for one, other in zip(fixed, seconds, strict=True)]),
                measure=Measure.times,
                wanted=Wanted(1.5, at_least=False),
                note=f"launches by members: {note}",
                **shared,
            )
            for floor, seconds in floors.items()
        ),
        Row(
            name="a member more, digits, one epoch",
            ours=Spread.of(slopes).median,
            peer=None,
            ratio=Spread.of(slopes),
            measure=Measure.seconds,
            wanted=Wanted(0.7, at_least=False),
            **shared,
        ),
    )
