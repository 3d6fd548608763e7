"""Times a launch beside a floor: what is paid before the first image is trained on and after the last one.

The floor is a plain process that starts Ray with its defaults for one machine, starts one actor that imports torch,
makes a new MLflow store in a SQLite file with one experiment and one run meanwhile, and shuts Ray down.

A launch is the digits with `schedule.epochs=1` in an empty folder, from the command to its exit, with one, two and four
members. Its fixed cost is the intercept of the line through these (least squares), and a member more is the slope.
"""

import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks import scripts
from benchmarks.row import Measure, Row, Settings, Spread, Wanted

_MEMBERS = (1, 2, 4)
_FLOOR = """
import os, sys
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true"}
import ray

@ray.remote(num_cpus=1)
class Actor:
    def load(self):
        import torch
        return torch.__version__

ray.init(
    address="local", num_cpus=len(os.sched_getaffinity(0)), object_store_memory=80 * 1024 * 1024,
    include_dashboard=False, log_to_driver=False, _temp_dir=sys.argv[1],
)
loaded = Actor.remote().load.remote()
import mlflow
client = mlflow.MlflowClient("sqlite:///mlflow.db")
run = client.create_run(client.create_experiment("floor"))
client.log_metric(run.info.run_id, "loss", 1.0)
ray.get(loaded)
ray.shutdown()
"""


def _floor(folder: Path) -> float:
    folder.mkdir(parents=True)
    # The path of a socket has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="floor-", dir="/tmp", ignore_cleanup_errors=True) as temporary:
        since = time.perf_counter()
        scripts.call([sys.executable, "-c", _FLOOR, temporary], folder / "log.txt")
        return time.perf_counter() - since


def _launch(folder: Path, num_members: int) -> float:
    others = [f"~ensemble.members.base{number}" for number in range(num_members + 1, 6)]
    return scripts.launch(folder, "ensemble=five", "schedule.epochs=1", *others).seconds


def _line(seconds: Mapping[int, float]) -> tuple[float, float]:
    """Returns slope and intercept."""
    slope, fixed = np.polyfit(list(seconds), list(seconds.values()), deg=1)
    return float(slope), float(fixed)


def run(settings: Settings) -> tuple[Row, Row]:
    """Measures both sides in turns; the order is reversed from round to round."""
    floors, lines = list[float](), list[tuple[float, float]]()
    every = list[dict[int, float]]()
    for number in range(settings.repeats):
        folder, seconds = settings.scratch / f"round-{number}", dict[int, float]()
        for members in (0, *_MEMBERS)[:: 1 if number % 2 == 0 else -1]:
            at = folder / f"members-{members}"
            seconds[members] = _launch(at, members) if members else _floor(at)
        floors.append(seconds.pop(0))
        every.append(seconds)
        lines.append(_line(seconds))
    slopes, fixed = (list(side) for side in zip(*lines, strict=True))
    medians = {members: Spread.of([one[members] for one in every]).median for members in _MEMBERS}
    note = "; ".join(f"{members}: {seconds:.2f} s" for members, seconds in medians.items())
    shared = {"unit": "s", "limit": None, "repeats": settings.repeats}
    return (
        Row(
            name="fixed cost of a launch, digits, beside Ray, one actor with torch, and a new MLflow store",
            ours=Spread.of(fixed).median,
            peer=Spread.of(floors).median,
            ratio=Spread.of([one / floor for one, floor in zip(fixed, floors, strict=True)]),
            measure=Measure.times,
            wanted=Wanted(1.5, at_least=False),
            note=f"launches by members: {note}",
            **shared,
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
