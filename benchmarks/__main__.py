"""`python -m benchmarks`: every comparison, one line each, on one thread."""

import torch

from benchmarks import input_pipeline, normalisation
from benchmarks.compare import Comparison


def _show(name: str, result: Comparison) -> None:
    print(
        f"{name:<58} {result.ratio:5.2f}× as fast ({result.lowest:.2f}-{result.highest:.2f});"
        f" {result.ours_s * 1e3:.1f} ms against {result.peer_s * 1e3:.1f} ms",
        flush=True,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    _show("batch of 64 crops: prepared store / decode and transform", input_pipeline.run())
    _show("LRN of conv1 (96 × 55 × 55) / torch's", normalisation.run(96, 55))
    _show("LRN of conv2 (256 × 27 × 27) / torch's", normalisation.run(256, 27))
