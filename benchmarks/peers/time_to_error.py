"""Trains one net until its error is low enough, as a user writes it for images that fit in memory: fp32, no flags.

All images are decoded once. The rate is cut to a tenth after 75 % and 92 % of the epochs, and gradients are clipped, as
in conf/experiment/cifar10.yaml. After each epoch it prints the seconds of training and the top-1 error on val, and it
stops at the wanted one.

    python -m benchmarks.peers.time_to_error ROOT --epochs 24 --error 0.35
"""

import argparse
import time
from pathlib import Path

import torch
from torch import nn
from torchvision import datasets, transforms

from benchmarks.peers.nets import NETS
from benchmarks.peers.plain_pytorch import NORMALISE, he


def in_memory(root: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns all images of class folders, (images, 3, side, side) float32 and normalised, and their labels."""
    images = datasets.ImageFolder(str(root), transform=transforms.Compose(NORMALISE))
    return torch.stack([image for image, _ in images]), torch.tensor(images.targets)


@torch.no_grad()
def error(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Returns the top-1 error in [0, 1]."""
    model.eval()
    right = sum(
        int((model(some).argmax(1) == wanted).sum())
        for some, wanted in zip(images.split(500), labels.split(500), strict=True)
    )
    return 1 - right / len(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--error", type=float, required=True, help="in [0, 1]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    images, labels = in_memory(options.root / "train")
    val = in_memory(options.root / "val")
    model = NETS["cifar_80s"](10)
    model.apply(he)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=0.004)
    cuts = [round(share * options.epochs) for share in (0.75, 0.92)]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, cuts)
    since = time.perf_counter()
    for epoch in range(options.epochs):
        model.train()
        for rows in torch.randperm(len(labels)).split(128):
            batch = images[rows]
            reflected = torch.rand(len(rows)) < 0.5
            batch[reflected] = batch[reflected].flip(3)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch), labels[rows]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
        schedule.step()
        reached = error(model, *val)
        print(f"epoch {epoch + 1}: {time.perf_counter() - since:.2f} s, error {reached:.4f}", flush=True)
        if reached <= options.error:
            return
    raise SystemExit(f"error {reached:.4f} after {options.epochs} epochs")


if __name__ == "__main__":
    main()
