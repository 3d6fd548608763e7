"""Estimates a training step's share of a GPU's roofline from its counted bytes and operations; no GPU is needed.

    python -m benchmarks.roofline --gpu "NVIDIA H100 80GB HBM3"

The step is the one that `workers.training.run_stage` makes of the full-size net. docs/gpus.md states the assumptions.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from benchmarks import synthetic
from benchmarks.gpus import H100_SXM, Gpu, known
from benchmarks.no_gpu import no_gpu
from benchmarks.operations import Counted, Event, Kind
from benchmarks.step_time import Host, Input, estimate, kernel_seconds
from workers.data.loading import crop
from workers.models import LocalResponseNorm
from workers.protocol import Numerics
from workers.settings import ModelSettings
from workers.training import run_stage

BATCH, NUM_CLASSES = 128, 1000
_WARM_UP = 2
# The first row for an H100 SXM, counted and estimated before the input path and the loop were changed.
BEFORE_COMMIT = "b0e3440"
BEFORE: Mapping[str, Mapping[str, float | int | str]] = {
    "bf16": {
        "case": f"recorded at {BEFORE_COMMIT}",
        "launches": 158,
        "waits": 6,
        "sent_bytes": 77_071_360,
        "kernel_bytes": 14_366_581_689,
        "flop": 568_093_065_216,
        "ideal_s": 0.000977,
        "kernels_s": 0.004818,
        "step_s": 0.030799,
        "share": 0.031738,
        "share_at_three_quarters": 0.030199,
    },
    "fp32": {
        "case": f"recorded at {BEFORE_COMMIT}",
        "launches": 113,
        "waits": 6,
        "sent_bytes": 77_071_360,
        "kernel_bytes": 16_546_749_881,
        "flop": 568_093_065_216,
        "ideal_s": 0.008277,
        "kernels_s": 0.012533,
        "step_s": 0.036207,
        "share": 0.228594,
        "share_at_three_quarters": 0.205026,
    },
}
_HEAD = (
    "| {precision} step | launches | waits | sent MB | GB | TFLOP | ideal ms | kernels ms | step ms | share | at 75 % |"
)


class _StepDone(Exception):
    """Enough updates were counted."""


def counted_step(
    scratch: Path, numerics: Numerics, model: ModelSettings = synthetic.FULL_SIZE, batch: int = BATCH,
    num_classes: int = NUM_CLASSES, side: int = 256,
) -> Counted:  # fmt: skip
    """Runs a stage on a GPU that need not exist, and returns what its third update asked for."""
    store = synthetic.store(scratch, max(num_classes, (_WARM_UP + 2) * batch), num_classes, side)
    spec = synthetic.stage(store, scratch / numerics.precision, model, batch, replace(numerics, device="cuda"))
    updates, began, found = 0, (0, 0), Counted()
    with no_gpu() as counted:

        def should_stop() -> bool:
            nonlocal updates, began
            updates += 1
            if updates == _WARM_UP:
                began = len(counted.events), counted.host_operators
            elif updates > _WARM_UP:
                found.events = counted.events[began[0] :]
                found.host_operators = counted.host_operators - began[1]
                raise _StepDone
            return False

        try:
            run_stage(spec, should_stop)
        except _StepDone:
            return found
    raise AssertionError("the stage ended before its third update")


class _OnePass(torch.autograd.Function):
    """Costs what a fused LRN does: one pass over x and y forward, one over x and both gradients backward."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        ctx.save_for_backward(images)
        return images.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return ctx.saved_tensors[0] + grad


@contextmanager
def fused_lrn() -> Iterator[None]:
    """Counts each LRN, with the ReLU inside it, as one kernel each way: a compiled kernel cannot run without a GPU."""
    with patch.object(LocalResponseNorm, "forward", lambda _self, images: _OnePass.apply(images)):
        yield


def without_biases(counted: Counted) -> list[Event]:
    """Returns the events of a compiled step, in which the kernel after a convolution adds the bias."""
    return [event for event in counted.events if event.name != "convolution bias"]


def input_seconds(side: int = 256, size: int = 224, batch: int = BATCH) -> float:
    """Measures on one thread the seconds to cut the uint8 crops of a batch."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
    offsets = generator.integers(0, side - size + 1, (batch, 2))
    chosen = generator.permutation(batch)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cut = []
    for _ in range(20):
        since = time.perf_counter()
        crop(images, chosen, offsets, size)
        cut.append(time.perf_counter() - since)
    torch.set_num_threads(threads)
    return min(cut)


@dataclass(frozen=True)
class Item:
    """A group of kernels of one step."""

    name: str
    launches: int
    seconds: float
    num_bytes: int
    flop: int


def largest(events: Sequence[Event], gpu: Gpu, host: Host, num: int = 14) -> list[Item]:
    """Returns the groups of kernels that take longest, and the rest as one."""
    groups: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        if event.kind is Kind.kernel:
            groups[_group(event)].append(event)
    items = sorted((_item(name, found, gpu, host) for name, found in groups.items()), key=lambda item: -item.seconds)
    others = [event for item in items[num:] for event in groups[item.name]]
    return [*items[:num], *([_item("others", others, gpu, host)] if others else [])]


def _item(name: str, events: Sequence[Event], gpu: Gpu, host: Host) -> Item:
    return Item(
        name,
        sum(event.launches for event in events),
        sum(kernel_seconds(event, gpu, host) for event in events),
        sum(event.num_bytes for event in events),
        sum(event.flop for event in events),
    )


def _group(event: Event) -> str:
    module, _, function = event.where.partition(".")
    if module == "lrn" or (module == "roofline" and function in ("forward", "backward")):
        return "LRN"
    names = {
        "convolution": "convolutions, forward",
        "convolution gradient of input": "convolutions, gradient of the input",
        "convolution gradient of weight": "convolutions, gradient of the weights",
        "convolution bias": "convolutions' biases, a pass of their own",
        "convolution gradient of bias": "gradients of the convolutions' biases",
        "addmm": "fully connected, forward",
        "mm": "fully connected, gradients",
        "_to_copy": "conversions between float32 and bfloat16",
        "_fused_sgd_": "optimizer",
        "_foreach_norm": "norm of the gradient",
        "max_pool2d_with_indices": "pooling",
        "max_pool2d_with_indices_backward": "pooling",
        "relu": "ReLU outside LRN",
        "threshold_backward": "ReLU outside LRN",
    }
    return names.get(event.name, event.name)


@dataclass(frozen=True)
class Case:
    """One row of the table: a step as counted, and how it is issued and fed."""

    name: str
    events: Sequence[Event]
    loading: Input
    graphs: bool = False


def cases(scratch: Path, precision: str) -> list[Case]:
    """Counts the step as it is with `compile=off`, and what compiling it makes of normalisation and biases."""
    numerics = Numerics(precision=precision, kernels="torch")
    ahead = Input(ahead=input_seconds())
    now = counted_step(scratch / "separate", numerics)
    with fused_lrn():
        compiled = without_biases(counted_step(scratch / "fused", numerics))
    return [
        Case("compile=off", now.events, ahead),
        Case("compiled: LRN in one pass, biases in the next kernel", compiled, ahead),
        Case("the same in CUDA graphs", compiled, ahead, graphs=True),
    ]


def described(case: Case, gpu: Gpu, host: Host) -> dict[str, float | int | str]:
    """Returns a case's counts and estimates as plain values; times in seconds."""
    counted = Counted(list(case.events))
    best, likely = (
        estimate(case.events, gpu, replace(host, reach=reach), case.loading, graphs=case.graphs) for reach in (1, 0.75)
    )
    kernels = counted.of(Kind.kernel)
    return {
        "case": case.name,
        "launches": counted.launches,
        "waits": counted.synchronisations,
        "sent_bytes": sum(event.bytes_read for event in counted.of(Kind.to_device)),
        "kernel_bytes": sum(event.num_bytes for event in kernels),
        "flop": sum(event.flop for event in kernels),
        "ideal_s": best.ideal,
        "kernels_s": best.kernels,
        "step_s": best.step,
        "share": best.share,
        "share_at_three_quarters": likely.share,
        "input_ahead_s": case.loading.ahead,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.roofline", description=__doc__)
    parser.add_argument("--gpu", default="NVIDIA H100 80GB HBM3", help="the name that torch gives the GPU")
    parser.add_argument("--precision", choices=("bf16", "fp32"), nargs="+", default=["bf16", "fp32"])
    parser.add_argument("--threads", type=int, default=Host.threads, help="CPU threads of a member (default: 8)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    gpu = known(options.gpu)
    if gpu is None:
        parser.error(f"{options.gpu}: not in benchmarks/gpus.py; give a name that is there")
    host = Host(threads=options.threads)
    found: dict[str, Any] = {"gpu": asdict(gpu), "host": asdict(host), "steps": {}, "items": {}}
    for precision in options.precision:
        with tempfile.TemporaryDirectory(prefix="septet-roofline-") as scratch:
            rows = cases(Path(scratch), precision)
        found["steps"][precision] = [described(row, gpu, host) for row in rows]
        found["items"][precision] = {
            row.name: [asdict(item) for item in largest(row.events, gpu, host)] for row in (rows[0], rows[1])
        }
    print(json.dumps(found, indent=1) if options.json else page(found))


def page(found: Mapping[str, Any]) -> str:
    """Returns the tables of docs/gpus.md."""
    lines = [f"{found['gpu']['name']}, {found['gpu']['source']}; batch {BATCH}, an estimate", ""]
    for precision, rows in found["steps"].items():
        lines += [_HEAD.format(precision=precision), f"|---|{'---:|' * 10}"]
        lines += [
            f"| {row['case']} | {row['launches']} | {row['waits']} | {row['sent_bytes'] / 1e6:.1f} "
            f"| {row['kernel_bytes'] / 1e9:.2f} | {row['flop'] / 1e12:.3f} | {row['ideal_s'] * 1e3:.2f} "
            f"| {row['kernels_s'] * 1e3:.2f} | {row['step_s'] * 1e3:.2f} | {row['share']:.0%} "
            f"| {row['share_at_three_quarters']:.0%} |"
            for row in (*([BEFORE[precision]] if found["gpu"]["name"] == H100_SXM.name else []), *rows)
        ]
        lines += ["", f"input: {rows[0]['input_ahead_s'] * 1e3:.1f} ms a batch on one thread, ahead of time", ""]
        for name, items in found["items"][precision].items():
            lines += [f"| {precision}, {name} | launches | ms | GB | GFLOP |", "|---|---:|---:|---:|---:|"]
            lines += [
                f"| {item['name']} | {item['launches']} | {item['seconds'] * 1e3:.3f} "
                f"| {item['num_bytes'] / 1e9:.2f} | {item['flop'] / 1e9:.0f} |"
                for item in items
            ]
            lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
