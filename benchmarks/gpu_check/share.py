"""Sets the measured step beside the least time that its bytes and FLOP allow on the device found."""

import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu_check import rates
from benchmarks.gpu_check.checks import Finding, Outcome, Skipped, Target
from benchmarks.gpus import Gpu, known
from benchmarks.roofline import counted_step
from benchmarks.step_time import ideal_seconds
from workers.protocol import Numerics

_TRIES = 5


def of_roofline(target: Target) -> Finding:
    """Divides the counted step's ideal time by the measured one, for each precision that was timed.

    A share above one means that the count or the peaks are wrong; at `quick` sizes measured peaks mean little.
    """
    timed = target.so_far.get("rates")
    if timed is None or timed.outcome is not Outcome.ok:
        raise Skipped("no step was timed")
    size = rates.QUICK if target.quick else rates.FULL
    gpu = peaks(target)
    figures: dict[str, Any] = {"peaks": {"name": gpu.name, "source": gpu.source, "bandwidth": gpu.bandwidth}}
    speeds = f"{gpu.bf16 / 1e12:.4g} TFLOP/s bf16, {gpu.fp32 / 1e12:.4g} fp32, {gpu.bandwidth / 1e9:.4g} GB/s"
    lines, wrong = [f"{gpu.name}: {speeds} ({gpu.source})"], []
    for precision in ("bf16", "fp32"):
        if precision not in timed.figures:
            continue
        folder = target.scratch / "roofline" / precision
        counted = counted_step(
            folder, Numerics(precision=precision), size.model, size.batch, size.num_classes, size.side
        )
        ideal = ideal_seconds(counted.events, gpu)
        shares = {name: ideal / seconds for name, seconds in timed.figures[precision]["seconds"].items()}
        figures[precision] = {"ideal_s": ideal, "share": shares, "launches": counted.launches,
                              "waits": counted.synchronisations}  # fmt: skip
        said = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        lines.append(f"{precision}: ideal {ideal * 1e3:.2f} ms; {said}")
        if max(shares.values()) > 1 and not target.quick:
            wrong.append(f"{precision}: faster than the ideal step, so the count or the peaks are wrong")
    return Finding(not wrong, figures, [*wrong, *lines])


def peaks(target: Target) -> Gpu:
    """Returns the data sheet's figures, or measured ones of a device that the table does not have."""
    name = torch.cuda.get_device_name(0) if target.device == "cuda" else "cpu"
    return known(name) or measured(target, name)


def measured(target: Target, name: str) -> Gpu:
    """Measures products of large matrices, a copy in the device's memory, and one from pinned memory."""
    side, num_bytes = (256, 2**22) if target.quick else (8192, 2**30)

    def product(dtype: torch.dtype) -> float:
        left, right = (torch.randn(side, side, device=target.device).to(dtype) for _ in range(2))
        return 2 * side**3 / _best_seconds(lambda: left @ right, target.device)

    source = torch.ones(num_bytes, dtype=torch.uint8, device=target.device)
    copied = torch.empty_like(source)
    bandwidth = 2 * num_bytes / _best_seconds(lambda: copied.copy_(source), target.device)
    host = torch.ones(num_bytes // 8, dtype=torch.uint8, pin_memory=target.device == "cuda")
    link = len(host) / _best_seconds(lambda: copied[: len(host)].copy_(host, non_blocking=True), target.device)
    torch.backends.cuda.matmul.allow_tf32 = False
    fp32 = product(torch.float32)
    torch.backends.cuda.matmul.allow_tf32 = True
    tf32 = product(torch.float32)
    torch.backends.cuda.matmul.allow_tf32 = False
    return Gpu(name, product(torch.bfloat16), tf32, fp32, bandwidth, link, source="not in the table: measured here")


def _best_seconds(work: Callable[[], object], device: str) -> float:
    def timed() -> float:
        since = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - since

    timed()
    return min(timed() for _ in range(_TRIES))
