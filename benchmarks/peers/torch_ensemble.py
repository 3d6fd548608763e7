"""Trains five five-conv and two six-conv nets with TorchEnsemble's VotingClassifier; writes averaged labels on val.

One VotingClassifier holds copies of one net and supports no pre-training, so there are two, both on the target only.

    python -m benchmarks.peers.torch_ensemble ROOT CLASSES_FILE SUBMISSION --epochs 40
"""

import argparse
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchensemble import VotingClassifier
from torchvision import transforms

from benchmarks.peers.nets import CROPS, small
from benchmarks.peers.plain_pytorch import NORMALISE, folder

_COUNTS = {5: 5, 6: 2}  # members by number of convolutions


class Net(nn.Module):
    """The net as a class, which TorchEnsemble requires."""

    def __init__(self, num_classes: int, num_convs: int) -> None:
        super().__init__()
        self.layers = small(num_classes, num_convs)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


class InMemory(Dataset):
    """Images decoded once and kept in memory; crops and reflections are drawn at each access."""

    def __init__(self, images: Dataset, augment: transforms.Compose) -> None:
        self.items, self.augment = [(image.convert("RGB").copy(), label) for image, label in images], augment

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image, label = self.items[index]
        return self.augment(image), label


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("classes", type=Path)
    parser.add_argument("submission", type=Path)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--at-once", type=int, default=1, help="members at once, each in a process of joblib's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="processes that load images")
    parser.add_argument("--in-memory", action="store_true", help="decode once and keep the pixels")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    classes = sorted(options.classes.read_text().split())
    crop = CROPS["small"]
    augmented = transforms.Compose([transforms.RandomCrop(crop), transforms.RandomHorizontalFlip(), *NORMALISE])
    centred = transforms.Compose([transforms.CenterCrop(crop), *NORMALISE])
    if options.in_memory:
        fitting: Dataset = InMemory(folder(options.root / "train", classes, None), augmented)
    else:
        fitting = folder(options.root / "train", classes, augmented)
    loader = DataLoader(fitting, 64, shuffle=True, num_workers=options.workers)
    val = DataLoader(folder(options.root / "val", classes, centred), 256)
    total = torch.zeros(())
    for num_convs, count in _COUNTS.items():
        ensemble = VotingClassifier(
            estimator=Net,
            n_estimators=count,
            estimator_args={"num_classes": len(classes), "num_convs": num_convs},
            cuda=False,
            n_jobs=options.at_once if options.at_once > 1 else None,
        )
        ensemble.set_optimizer("SGD", lr=0.015, momentum=0.9, weight_decay=5e-4)
        ensemble.fit(loader, epochs=options.epochs, log_interval=10**6, save_model=False)
        ensemble.eval()
        with torch.no_grad():
            total = total + count * torch.cat([ensemble(images) for images, _ in val])
    options.submission.write_text("\n".join(map(str, total.argmax(1).tolist())) + "\n")


if __name__ == "__main__":
    main()
