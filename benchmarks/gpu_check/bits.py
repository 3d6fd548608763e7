"""Trains a small stage undisturbed, twice, and once killed and resumed: the weights must have equal bits."""

import shutil
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.numpy import load_file

from benchmarks.gpu_check import devices, stages
from benchmarks.gpu_check.checks import Finding, Skipped, Target
from workers.protocol import StageResult, StageSpec
from workers.settings import Layout
from workers.training import run_stage

KILLED_AFTER = 7
# Largest difference of a weight from the grouped net's, beside that weight's largest value.
_HALVES_BOUND = 1e-4


def resumed(precision: str, target: Target) -> Finding:
    """Compares the weights of two undisturbed stages, and of one that is killed by SIGKILL and resumed."""
    if precision == "bf16" and not devices.bf16(target.device):
        raise Skipped("this GPU has no bf16 in hardware")
    return _compared(target, f"bits-{precision}", precision, Layout.grouped)


def halves(target: Target) -> Finding:
    """Compares a net in two halves with the grouped net, and with itself after a kill and resume."""
    if target.device == "cuda" and torch.cuda.device_count() < 2:
        raise Skipped(f"{torch.cuda.device_count()} GPU; the halves need two")
    grouped = stages.stage(target, "grouped", "fp32")
    found = _compared(target, "halves", "fp32", Layout.halves)
    apart = _largest_difference(
        _weights(stages.stage(target, "halves-once", "fp32", Layout.halves)), _weights(trained(grouped))
    )
    line = f"weights differ from the grouped net's by {apart:.1e} of at most {_HALVES_BOUND:.0e}"
    far = apart > _HALVES_BOUND
    lines = [line, *found.lines] if far else [*found.lines, line]
    return Finding(found.ok and not far, {**found.figures, "from_grouped": apart, "bound": _HALVES_BOUND}, lines)


def _compared(target: Target, name: str, precision: str, layout: Layout) -> Finding:
    once, twice, killed = (
        stages.stage(target, f"{name}-{how}", precision, layout) for how in ("once", "twice", "killed")
    )
    first, second = result_of(once), result_of(twice)
    _train_and_kill(killed, target, precision, layout)
    third = result_of(killed)
    hashes = [result.checkpoint_sha256 for result in (first, second, third)]
    figures = {"sha256": dict(zip(("once", "twice", "resumed"), hashes, strict=True)), "from": third.resumed_from}
    if hashes[0] != hashes[1]:
        return Finding(False, figures, ["two undisturbed stages differ in bits"])
    if not 0 < third.resumed_from < stages.NUM_UPDATES:
        return Finding(False, figures, [f"the killed stage resumed from update {third.resumed_from}, not from between"])
    if hashes[2] != hashes[0]:
        return Finding(False, figures, [f"killed and resumed from update {third.resumed_from}: other bits"])
    said = f"{precision}: equal bits twice, and killed after update {KILLED_AFTER}, resumed from {third.resumed_from}"
    return Finding(True, figures, [f"{said} (sha256 {hashes[0][:12]}…)"])


def result_of(spec: StageSpec) -> StageResult:
    """Trains the stage, or the rest of it, to its end."""
    return run_stage(spec, lambda: False)


def trained(spec: StageSpec) -> StageSpec:
    result_of(spec)
    return spec


def _train_and_kill(spec: StageSpec, target: Target, precision: str, layout: Layout) -> None:
    shutil.rmtree(spec.stage_dir, ignore_errors=True)
    words = [target.device, str(int(target.quick)), str(target.scratch), spec.stage, precision, layout.value]
    code = subprocess.run([sys.executable, "-m", "benchmarks.gpu_check.killed", *words], check=False).returncode
    if code != -9:
        raise AssertionError(f"the stage to be killed ended with code {code}")


def killed_stage(words: list[str]) -> StageSpec:
    """Returns the stage that a command line of `_train_and_kill` means."""
    device, quick, scratch, name, precision, layout = words
    return stages.stage(Target(device, quick == "1", Path(scratch)), name, precision, Layout(layout))


def _weights(spec: StageSpec) -> dict:
    newest = max((spec.stage_dir / "checkpoints").iterdir())
    return load_file(newest / "model.safetensors")


def _largest_difference(ours: dict, theirs: dict) -> float:
    assert ours.keys() == theirs.keys()
    return max(float(abs(ours[name] - value).max() / abs(value).max()) for name, value in theirs.items())
