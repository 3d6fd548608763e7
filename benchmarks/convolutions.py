"""Times one update of single convolutions in bfloat16: torch's own beside those that are computed by shape.

`python -m benchmarks.convolutions` prints a table. It is the CPU time of one thread, so other work disturbs it little.
The limits in `workers.models.replacements` are from such tables.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from workers import numerics
from workers.models.replacements import replace_convolutions
from workers.protocol import Numerics

# Images, channels in and out, side, kernel, stride, groups: of ResNets and MobileNets at 64 and 224 pixels.
_SHAPES = (
    (64, 64, 64, 16, 3, 1, 1),
    (64, 128, 128, 8, 3, 1, 1),
    (64, 256, 256, 4, 3, 1, 1),
    (64, 256, 512, 4, 3, 2, 1),
    (64, 512, 512, 2, 3, 1, 1),
    (64, 512, 512, 4, 3, 1, 1),
    (32, 256, 256, 14, 3, 1, 1),
    (32, 512, 512, 7, 3, 1, 1),
    (64, 144, 576, 1, 1, 1, 1),
    (64, 72, 72, 16, 3, 2, 72),
    (64, 240, 240, 4, 5, 1, 240),
    (16, 96, 96, 112, 3, 2, 96),
    (16, 384, 384, 14, 3, 1, 384),
)
_ROUNDS = 15


def _update(conv: nn.Conv2d, num_images: int, side: int) -> Callable[[], None]:
    images = torch.randn(num_images, conv.in_channels, side, side).bfloat16()
    images = images.contiguous(memory_format=torch.channels_last).requires_grad_()

    def once() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = conv(images)
        outputs.backward(torch.ones_like(outputs))

    return once


def _cpu_seconds(work: Callable[[], None]) -> float:
    since = time.process_time()
    work()
    return time.process_time() - since


def main() -> None:
    """Prints medians over rounds in which both take turns."""
    numerics.apply(Numerics())
    print("| images, channels, side, kernel, stride, groups | torch, ms | by shape, ms | ratio |\n|---|---|---|---|")
    for num_images, inputs, outputs, side, kernel, stride, groups in _SHAPES:
        updates = []
        for by_shape in (False, True):
            conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
            conv.to(memory_format=torch.channels_last)
            if by_shape:
                replace_convolutions(conv)
            updates.append(_update(conv, num_images, side))
            updates[-1]()
        rounds = [[_cpu_seconds(work) for work in updates] for _ in range(_ROUNDS)]
        before, after = (1e3 * statistics.median(one) for one in zip(*rounds, strict=True))
        shape = f"{num_images}, {inputs} → {outputs}, {side}, {kernel}, {stride}, {groups}"
        print(f"| {shape} | {before:.2f} | {after:.2f} | {before / after:.2f} × |", flush=True)


if __name__ == "__main__":
    main()
