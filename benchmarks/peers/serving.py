"""Answers images one at a time as a plain loop does: each decoded with PIL, cropped, and put through net after net."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms import functional

from benchmarks.peers.nets import CROPS, NETS
from benchmarks.turns import Turns


def loop(files: Sequence[Path], side: int, convs: Sequence[int], num_classes: int, threads: int, turns: Turns) -> None:
    """Averages the softmax of a net for each of `convs` over torchvision's ten crops of each image, in fp32."""
    torch.set_num_threads(threads)
    nets = [NETS["small"](num_classes, each).eval() for each in convs]
    mean, std = torch.full((3, 1, 1), 0.45), torch.full((3, 1, 1), 0.25)

    @torch.inference_mode()
    def answer(file: Path) -> int:
        with Image.open(file) as opened:
            image = functional.center_crop(functional.resize(opened.convert("RGB"), side), [side, side])
        pixels = (functional.to_tensor(image) - mean) / std
        crops = torch.stack(functional.ten_crop(pixels, CROPS["small"]))
        return int(torch.stack([net(crops).softmax(1).mean(0) for net in nets]).mean(0).argmax())

    turns.play(lambda: [answer(file) for file in files])
