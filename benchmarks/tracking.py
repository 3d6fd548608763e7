"""Measures what tracking costs a training step, for a working MLflow server and for each fault, beside no tracking.

Each contestant trains the small net in a process of its own. A second process does a driver's work for it: it follows
metrics.jsonl twice a second and passes the points to the real tracker. The tracker's sender talks to a real MLflow
server through a proxy, which misbehaves as soon as the stage's run exists.
"""

import multiprocessing
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from urllib.parse import urlsplit

from benchmarks import synthetic
from benchmarks.misbehaving_proxy import Fault, Proxy, serving_badly
from benchmarks.numerics import fastest
from benchmarks.row import Measure, Row, Settings, Spread, Wanted
from benchmarks.training_step import ours
from benchmarks.turns import ratios, take_turns
from orchestrator.config import TrackingConfig
from orchestrator.plan import Plan, PlannedDataset, Stage, StageRef
from orchestrator.run import Follower
from orchestrator.tracking import RunIdentity, Tracker, serving
from workers.protocol import StageSpec

_BATCH, _CLASSES, _SIDE, _UPDATES = 64, 40, 64, 20
_POLL_S = 0.5  # the driver's
_SLOW_S = 30.0
_START_S = 120.0
_NUM_RUNS = 3  # the ensemble's, the member's, the stage's
_NONE = "none"


@dataclass(frozen=True)
class _Behaviour:
    """How one server behaves, and the words for it in the row's name; `fault` None: the server was killed."""

    title: str
    fault: Fault | None


_BEHAVIOURS = {
    "there": _Behaviour("there", Fault.none),
    "away": _Behaviour("killed", None),
    "500": _Behaviour("answering 500", Fault.error),
    "slow": _Behaviour(f"{_SLOW_S:.0f} s slow", Fault.slow),
    "hanging": _Behaviour("hanging", Fault.hang),
    "dropping": _Behaviour("losing every answer", Fault.drop_reply),
}


def _plan(spec: StageSpec) -> Plan:
    stage = Stage(
        ref=StageRef(spec.member, spec.stage),
        recipe=replace(spec.recipe, dataset="target"),
        init_from=None,
        member_seed=0,
        seed=0,
        hash="benchmark",
        num_images=_UPDATES * _BATCH,
        num_updates=_UPDATES,
        num_classes=_CLASSES,
    )
    dataset = PlannedDataset("target", {}, (), _CLASSES, {"train": stage.num_images}, True)
    return Plan("benchmark", "benchmark", (spec.member,), {spec.member: stage.ref}, (dataset,), (stage,))


def _drive(spec: StageSpec, address: str) -> None:
    """Does a driver's work for one stage until the process is killed."""
    identity = RunIdentity(str(uuid.uuid4()), "benchmark", "benchmark", spec.member)
    tracker = Tracker(TrackingConfig(address, False), identity, _plan(spec), {}, {})
    tracker.wait_until_open()
    ref = StageRef(spec.member, spec.stage)
    tracker.stage_started(ref)
    follower = Follower(spec.stage_dir / "metrics.jsonl")
    while True:
        for point in follower.read():
            tracker.log(ref, point.step, point.time, point.metrics)
        time.sleep(_POLL_S)


@contextmanager
def _driving(specs: Mapping[str, StageSpec], proxies: Mapping[str, Proxy]) -> Iterator[None]:
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_drive, args=(specs[name], proxy.address), daemon=True)
        for name, proxy in proxies.items()
    ]
    try:
        for process in processes:
            process.start()
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def _misbehave(behaviour: _Behaviour, proxy: Proxy) -> None:
    """Waits until the runs exist, then starts the fault, so that it affects points."""
    until = time.monotonic() + _START_S
    while sum("runs/create" in path for _, path in proxy.paths) < _NUM_RUNS:
        if time.monotonic() > until:
            raise RuntimeError(f"MLflow {behaviour.title}: no run was made within {_START_S:.0f} s")
        time.sleep(_POLL_S)
    if behaviour.fault is None:
        proxy.refuse()
    else:
        proxy.break_it(behaviour.fault, delay_s=_SLOW_S)


def _evidence(name: str, proxy: Proxy) -> str:
    """Says how many requests met the server's behaviour; refused connections never reach the proxy."""
    behaviour = _BEHAVIOURS[name]
    if behaviour.fault is None:
        return "connections refused"
    if behaviour.fault is Fault.none:
        return f"{len(proxy.paths)} requests answered"
    if not proxy.injected[behaviour.fault]:
        raise RuntimeError(f"MLflow {behaviour.title}: no request met it, so the row would say nothing")
    return f"{proxy.injected[behaviour.fault]} requests met it"


def run(settings: Settings) -> tuple[Row, ...]:
    """Measures one row per behaviour: its step time over that without any server, in turns within one run."""
    store = synthetic.store(settings.scratch, _UPDATES * _BATCH, _CLASSES, _SIDE)
    folder = settings.scratch / "members"
    specs = {
        name: synthetic.stage(store, folder / f"m-{name}", synthetic.SMALL, _BATCH, fastest(1))
        for name in (_NONE, *_BEHAVIOURS)
    }
    specs = {name: replace(spec, stage_dir=spec.stage_dir / "train") for name, spec in specs.items()}
    with ExitStack() as stack:
        server = stack.enter_context(serving(f"sqlite:///{settings.scratch}/mlflow.db"))
        port = urlsplit(server.address).port
        assert port is not None
        proxies = {name: stack.enter_context(serving_badly(port)) for name in _BEHAVIOURS}
        stack.enter_context(_driving(specs, proxies))
        for name, proxy in proxies.items():
            _misbehave(_BEHAVIOURS[name], proxy)
        readings = take_turns({name: partial(ours, spec, _UPDATES) for name, spec in specs.items()}, settings.repeats)
        notes = {name: _evidence(name, proxy) for name, proxy in proxies.items()}
    return tuple(
        Row(
            name=f"small training step, MLflow {behaviour.title}",
            unit="ms",
            ours=1000 * Spread.of(readings[name]).median,
            peer=1000 * Spread.of(readings[_NONE]).median,
            limit=None,
            ratio=Spread.of(ratios(readings, name, _NONE)),
            measure=Measure.times,
            wanted=Wanted(1.05, at_least=False),
            repeats=settings.repeats,
            note=f"{notes[name]}; beside: no tracking at all",
        )
        for name, behaviour in _BEHAVIOURS.items()
    )
