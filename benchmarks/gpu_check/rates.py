"""Measures images a second of the full-size net's step beside plain PyTorch, in turns in one run."""

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks import synthetic
from benchmarks.gpu_check import devices, stages
from benchmarks.gpu_check.checks import Finding, Target
from benchmarks.peers import step as peers
from benchmarks.row import Spread
from benchmarks.turns import Contestant, Turns, ratios, take_turns
from workers.protocol import StageSpec
from workers.settings import ModelSettings
from workers.training import run_stage

# Twelve updates make a turn, in each of which two warm up, eight are timed and two pass untimed: an epoch ends after
# whole turns, so its evaluation is in none of them.
_UPDATES, _WARM_UP, _TIMED = 12, 2, 8
_CHECKPOINT_S = 60.0


@dataclass(frozen=True)
class Size:
    """The net, its images and its batch; `peer` is the name of the same net of `benchmarks.peers`."""

    model: ModelSettings
    peer: str
    side: int
    num_classes: int
    batch: int
    rounds: int


FULL = Size(synthetic.FULL_SIZE, "full_size", 256, 1000, 128, 7)
QUICK = Size(synthetic.SMALL, "small", 64, 4, 4, 1)


def ours(spec: StageSpec, turns: Turns) -> None:
    """Reports the seconds of one update, as the mean over the timed ones of a turn, which ends with the device."""
    count, seconds, since = 0, 0.0, 0.0

    def should_stop() -> bool:
        nonlocal count, seconds, since
        count += 1
        if count % _UPDATES == _WARM_UP and count > 2 * _UPDATES:
            # The first reading only says that this side has warmed up. Later ones are of the turn before.
            if count < 3 * _UPDATES:
                _wait_for_checkpoint(spec)
            _finish(spec.numerics.device)
            turns.next(seconds)
            since = time.perf_counter()
        elif count % _UPDATES == _WARM_UP + _TIMED:
            _finish(spec.numerics.device)
            seconds = (time.perf_counter() - since) / _TIMED
        return False

    run_stage(spec, should_stop)


def _wait_for_checkpoint(spec: StageSpec) -> None:
    """Waits until the one checkpoint, which the first epoch's end starts, is written and disturbs no turn."""
    until = time.monotonic() + _CHECKPOINT_S
    while not list((spec.stage_dir / "checkpoints").glob("step-*/MANIFEST.json")) and time.monotonic() < until:
        time.sleep(0.05)


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def beside_plain_torch(target: Target) -> Finding:
    """Measures bf16 and fp32; it informs, so it fails only where a side cannot be measured."""
    size = QUICK if target.quick else FULL
    # Two turns make an epoch.
    store = synthetic.store(target.scratch / "rates", 2 * _UPDATES * size.batch, size.num_classes, size.side)
    figures: dict[str, Any] = {"batch": size.batch, "pixels": size.model.input_size}
    lines = []
    for precision in ("bf16", "fp32"):
        if precision == "bf16" and not devices.bf16(target.device):
            lines.append("bf16: this GPU has none in hardware, not measured")
            continue
        readings = take_turns(_contestants(target, size, store, precision), size.rounds)
        medians = {name: Spread.of(seconds).median for name, seconds in readings.items()}
        peer = "tuned" if precision == "bf16" else "plain"
        figures[precision] = {
            "seconds": medians,
            "images_per_second": {name: size.batch / seconds for name, seconds in medians.items()},
            f"ours_over_{peer}": {
                name: Spread.of(ratios(readings, peer, name)).median for name in medians if name.startswith("ours")
            },
        }
        speeds = ", ".join(f"{name} {size.batch / seconds:,.0f}" for name, seconds in medians.items())
        times = " ".join(f"{value:.2f}" for value in figures[precision][f"ours_over_{peer}"].values())
        lines.append(f"{precision}, images/s: {speeds}; ours is {times} × {peer}")
    return Finding(True, figures, lines)


def _contestants(target: Target, size: Size, store: Any, precision: str) -> dict[str, Contestant]:
    found: dict[str, Contestant] = {}
    threads = stages.numerics(target, precision).threads
    for mode in stages.modes(target):
        numerics = stages.numerics(target, precision, mode)
        folder = target.scratch / "rates" / f"{precision}-{mode}"
        found[f"ours {mode}"] = partial(ours, synthetic.stage(store, folder, size.model, size.batch, numerics))
    parts = (size.peer, size.num_classes, size.batch, threads)
    beside = {"tuned": peers.tuned} if precision == "bf16" else {
        "plain": peers.plain_without_tf32, "plain with TF32": peers.plain}  # fmt: skip
    for name, peer in beside.items():
        found[name] = partial(_peer, peer, parts, target.device)
    return found


def _peer(peer: Any, parts: tuple[Any, ...], device: str, turns: Turns) -> None:
    peer(*parts, _Each(turns), device=device, steps=_TIMED)


class _Each(Turns):
    """Reports the seconds of one step of a turn's many."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def next(self, reading: float) -> None:
        self._turns.next(reading / _TIMED)
