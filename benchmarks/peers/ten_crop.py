"""Times ten-crop prediction in plain PyTorch, from normalised images in memory, which favours the peer."""

from contextlib import nullcontext

import torch
from torchvision.transforms import functional

from benchmarks.peers.nets import CROPS, NETS
from benchmarks.turns import Turns


def predict(net: str, num_classes: int, num_images: int, batch: int, threads: int, fast: bool, turns: Turns) -> None:
    """Averages softmax over torchvision's ten crops, `batch` images at once; `fast`: channels_last, bf16 autocast."""
    torch.set_num_threads(threads)
    layout = torch.channels_last if fast else torch.contiguous_format
    model = NETS[net](num_classes).to(memory_format=layout).eval()
    side = CROPS[net]
    images = torch.randn(num_images, 3, side + 32, side + 32)

    @torch.inference_mode()
    def work() -> None:
        for part in images.split(batch):
            crops = torch.cat(functional.ten_crop(part, side)).contiguous(memory_format=layout)
            with torch.autocast("cpu", dtype=torch.bfloat16) if fast else nullcontext():
                logits = model(crops)
            logits.float().softmax(1).view(10, len(part), -1).mean(0)

    turns.play(work)
