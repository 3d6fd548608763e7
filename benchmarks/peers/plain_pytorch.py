"""Trains one member as a user would write it with PyTorch and torchvision alone; one process per member.

It trains on class folders (`train/<class>/*`, `val/<class>/*`), keeps only the classes that a file lists, prints its
ten-crop error on val, and writes the ten-crop probabilities of `test/*` with --predictions. The learning rate is cut
when the error on a held-out tenth of train (or on val) stops improving. With --pretrain-epochs it first trains on all
classes of the folders, then replaces the last layer by a fresh one.

    python -m benchmarks.peers.plain_pytorch ROOT CLASSES_FILE --seed 0
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import datasets, transforms

from benchmarks.peers.nets import CROPS, NETS

NORMALISE = [transforms.ToTensor(), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]


def stack_views(crops: Sequence[Image.Image]) -> torch.Tensor:
    return torch.stack([transforms.Compose(NORMALISE)(crop) for crop in crops])


class Flat(Dataset):
    """Unlabelled images of one folder, in the order of their names."""

    def __init__(self, root: Path, transform: transforms.Compose) -> None:
        self.paths, self.transform = sorted(root.iterdir()), transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.open(self.paths[index]).convert("RGB")), 0


def he(layer: nn.Module) -> None:
    """Applies He's init with zero biases, which is best for the peer."""
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)


def folder(root: Path, classes: list[str], transform: transforms.Compose | None) -> datasets.DatasetFolder:
    """Returns the images of `classes` below `root`, labelled by position in the list."""
    images = datasets.ImageFolder(str(root), transform=transform)
    position = {images.class_to_idx[name]: index for index, name in enumerate(classes) if name in images.class_to_idx}
    images.samples = [(path, position[label]) for path, label in images.samples if label in position]
    return images


def transform(net: str, *crop: object) -> transforms.Compose:
    """Returns a transform that first resizes photographs to 256 pixels, and leaves small images as they are."""
    resize = [transforms.Resize(256), transforms.CenterCrop(256)] if CROPS[net] == 224 else []
    return transforms.Compose([*resize, *crop])


@torch.no_grad()
def error(model: nn.Module, loader: DataLoader) -> float:
    """Returns the top-1 error of single views."""
    model.eval()
    wrong = total = 0
    for images, labels in loader:
        wrong += int((model(images).argmax(1) != labels).sum())
        total += len(labels)
    return wrong / total


@torch.no_grad()
def ten_crop(model: nn.Module, loader: DataLoader) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns probabilities averaged over the views, and the labels."""
    model.eval()
    rows, labels = [], []
    for images, wanted in loader:
        outputs = model(images.flatten(0, 1)).softmax(1)
        rows.append(outputs.view(len(wanted), 10, -1).mean(1))
        labels.append(wanted)
    return torch.cat(rows), torch.cat(labels)


def train(model: nn.Module, classes: list[str], epochs: int, rate: float, options: argparse.Namespace) -> None:
    """Trains with momentum SGD; the learning rate is cut on a plateau."""
    crop = CROPS[options.net]
    augmented = transform(options.net, transforms.RandomCrop(crop), transforms.RandomHorizontalFlip(), *NORMALISE)
    centred = transform(options.net, transforms.CenterCrop(crop), *NORMALISE)
    fitting: Dataset = folder(options.root / "train", classes, augmented)
    if options.dev:
        order = torch.randperm(len(fitting), generator=torch.Generator().manual_seed(0)).tolist()
        held_out = len(order) // 10
        dev: Dataset = Subset(folder(options.root / "train", classes, centred), order[:held_out])
        fitting = Subset(fitting, order[held_out:])
    else:
        dev = folder(options.root / "val", classes, centred)
    loading = {"num_workers": options.workers, "persistent_workers": options.workers > 0}
    loader = DataLoader(fitting, options.batch_size, shuffle=True, **loading)
    dev_loader = DataLoader(dev, 256, **loading)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4, fused=options.flags)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=15)
    for epoch in range(epochs):
        model.train()
        for images, labels in loader:
            optimizer.zero_grad()
            with torch.autocast("cpu", enabled=options.flags):
                logits = model(images)
            nn.functional.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
        with torch.autocast("cpu", enabled=options.flags):
            dev_error = error(model, dev_loader)
        schedule.step(dev_error)
        print(f"epoch {epoch + 1}: dev error {dev_error:.3f}, lr {optimizer.param_groups[0]['lr']:.2g}", flush=True)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("classes", type=Path, nargs="?", help="default: all of train/")
    parser.add_argument("--net", choices=sorted(NETS), default="small")
    parser.add_argument("--convs", type=int, help="of an AlexNet: 5 or 6")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--lr", type=float, default=0.015)
    parser.add_argument("--pretrain-epochs", type=int, default=0)
    parser.add_argument("--pretrain-lr", type=float, default=0.015)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--ten-crop-batch", type=int, default=8, help="images of ten views each")
    parser.add_argument("--flags", action="store_true", help="channels_last, bf16 autocast, fused SGD")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="processes that load images")
    parser.add_argument("--no-dev", dest="dev", action="store_false", help="cut the rate by val; hold nothing out")
    parser.add_argument("--he", action="store_true", help="He's init in place of PyTorch's default")
    parser.add_argument("--predictions", type=Path, help="write the ten-crop probabilities of test to this npy file")
    return parser


def run(options: argparse.Namespace) -> float:
    """Trains one member and returns its ten-crop error on val."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    random.seed(options.seed)
    everything = sorted(path.name for path in (options.root / "train").iterdir())
    classes = sorted(options.classes.read_text().split()) if options.classes else everything
    num_classes = len(everything) if options.pretrain_epochs else len(classes)
    model = NETS[options.net](num_classes, *([options.convs] if options.convs else ()))
    if options.flags:
        model = model.to(memory_format=torch.channels_last)
    if options.he:
        model.apply(he)
    if options.pretrain_epochs:
        train(model, everything, options.pretrain_epochs, options.pretrain_lr, options)
        model[-1] = nn.Linear(model[-1].in_features, len(classes))
    train(model, classes, options.epochs, options.lr, options)
    tens = transform(options.net, transforms.TenCrop(CROPS[options.net]), transforms.Lambda(stack_views))
    loading = {"batch_size": options.ten_crop_batch, "num_workers": options.workers}
    with torch.autocast("cpu", enabled=options.flags):
        if options.predictions:
            probabilities, _ = ten_crop(model, DataLoader(Flat(options.root / "test", tens), **loading))
            np.save(options.predictions, probabilities.float().numpy())
        probabilities, labels = ten_crop(model, DataLoader(folder(options.root / "val", classes, tens), **loading))
    return float((probabilities.argmax(1) != labels).float().mean())


def main() -> None:
    options = arguments().parse_args()
    print(f"seed {options.seed}: ten-crop val error {run(options):.4f}")


if __name__ == "__main__":
    main()
