"""The peer: one member as a user would write it with PyTorch and torchvision alone; one process a member.

Trains the tiny_imagenet experiment's base net on class folders (`train/<class>/*`, `val/<class>/*`), keeping only the
classes that a file lists, and prints its ten-crop error on val. The learning rate is cut when the error on a held-out
tenth of train stops improving, as in the experiment.

    python benchmarks/plain_pytorch.py ROOT CLASSES_FILE --seed 0
"""

import argparse
import random
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms


def net(num_classes: int) -> nn.Sequential:
    """AlexNet at a third of the width for 56-pixel crops: the geometry of conf/model/alexnet_64.yaml."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(32, 88, 5, padding=2, groups=2),
        nn.ReLU(),
        nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(88, 128, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(128, 128, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.Conv2d(128, 88, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Flatten(),
        nn.Linear(88 * 2 * 2, 1024),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(1024, 1024),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(1024, num_classes),
    )


def he(layer: nn.Module) -> None:
    """He's init with zero biases, for the peer's best."""
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)


def folder(root: Path, classes: list[str], transform: transforms.Compose) -> datasets.DatasetFolder:
    """The images of `classes` below `root`, labelled by position in the list."""
    images = datasets.ImageFolder(str(root), transform=transform)
    position = {images.class_to_idx[name]: index for index, name in enumerate(classes)}
    images.samples = [(path, position[label]) for path, label in images.samples if label in position]
    return images


@torch.no_grad()
def error(model: nn.Module, loader: DataLoader, ten_crop: bool = False) -> float:
    """Top-1 error; with `ten_crop` each item holds ten views whose probabilities are averaged."""
    model.eval()
    wrong = total = 0
    for images, labels in loader:
        if ten_crop:
            views = images.flatten(0, 1)
            outputs = model(views).softmax(1).view(len(labels), -1, model[-1].out_features).mean(1)
        else:
            outputs = model(images)
        wrong += int((outputs.argmax(1) != labels).sum())
        total += len(labels)
    return wrong / total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("classes", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--lr", type=float, default=0.015)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--he", action="store_true", help="He's init in place of PyTorch's default")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    random.seed(options.seed)
    classes = sorted(options.classes.read_text().split())
    normalise = [transforms.ToTensor(), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    augmented = transforms.Compose([transforms.RandomCrop(56), transforms.RandomHorizontalFlip(), *normalise])
    centred = transforms.Compose([transforms.CenterCrop(56), *normalise])
    stack = transforms.Lambda(lambda crops: torch.stack([transforms.Compose(normalise)(crop) for crop in crops]))
    tens = transforms.Compose([transforms.TenCrop(56), stack])

    train = folder(options.root / "train", classes, augmented)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).tolist()
    held_out = len(train) // 10
    fitting = Subset(train, order[held_out:])
    dev = Subset(folder(options.root / "train", classes, centred), order[:held_out])
    loader = DataLoader(fitting, options.batch_size, shuffle=True)
    model = net(len(classes))
    if options.he:
        model.apply(he)
    optimizer = torch.optim.SGD(model.parameters(), lr=options.lr, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=15)
    for epoch in range(options.epochs):
        model.train()
        for images, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        dev_error = error(model, DataLoader(dev, 256))
        schedule.step(dev_error)
        print(f"epoch {epoch + 1}: dev error {dev_error:.3f}, lr {optimizer.param_groups[0]['lr']:.2g}", flush=True)
    val = DataLoader(folder(options.root / "val", classes, tens), 32)
    print(f"seed {options.seed}: ten-crop val error {error(model, val, ten_crop=True):.4f}")


if __name__ == "__main__":
    main()
