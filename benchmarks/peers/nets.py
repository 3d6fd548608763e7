"""Defines the nets of conf/model as a user writes them with torch.nn alone."""

import torchvision
from torch import nn


def _alexnet(
    filters: tuple[int, ...], kernel: int, stride: int, side: int, units: int, num_classes: int, num_convs: int
) -> nn.Sequential:
    first, second, third, fourth, fifth = filters
    sixth = [nn.Conv2d(fifth, fifth, 3, padding=1), nn.ReLU()] if num_convs == 6 else []
    return nn.Sequential(
        nn.Conv2d(3, first, kernel, stride=stride, padding=2),
        nn.ReLU(),
        nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(first, second, 5, padding=2, groups=2),
        nn.ReLU(),
        nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(second, third, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(third, fourth, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.Conv2d(fourth, fifth, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        *sixth,
        nn.Flatten(),
        nn.Linear(fifth * side**2, units),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(units, units),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(units, num_classes),
    )


def full_size(num_classes: int, num_convs: int = 5) -> nn.Sequential:
    """Builds the 2012 net for 224-pixel crops (conf/model/alexnet.yaml)."""
    return _alexnet((96, 256, 384, 384, 256), 11, 4, 6, 4096, num_classes, num_convs)


def small(num_classes: int, num_convs: int = 5) -> nn.Sequential:
    """Builds the net at a third of the width for 56-pixel crops (conf/model/alexnet_64.yaml)."""
    return _alexnet((32, 88, 128, 128, 88), 5, 2, 2, 1024, num_classes, num_convs)


def cifar_80s(num_classes: int) -> nn.Sequential:
    """Builds cuda-convnet's net of 80 seconds for CIFAR-10 (conf/model/cifar_80s.yaml)."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 5, padding=2),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.ReLU(),
        nn.Conv2d(32, 32, 5, padding=2),
        nn.ReLU(),
        nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, num_classes),
    )


def resnet18(num_classes: int) -> nn.Module:
    """Builds torchvision's."""
    return torchvision.models.resnet18(num_classes=num_classes)


def mobilenet_v2(num_classes: int) -> nn.Module:
    """Builds torchvision's."""
    return torchvision.models.mobilenet_v2(num_classes=num_classes)


def resnet10t(num_classes: int) -> nn.Module:
    """Builds timm's small ResNet."""
    import timm

    return timm.create_model("resnet10t", num_classes=num_classes)


NETS = {
    "full_size": full_size,
    "small": small,
    "cifar_80s": cifar_80s,
    "resnet18": resnet18,
    "resnet18_224": resnet18,
    "resnet10t": resnet10t,
    "mobilenet_v2": mobilenet_v2,
}
CROPS = {
    "full_size": 224,
    "small": 56,
    "cifar_80s": 32,
    "resnet18": 64,
    "resnet18_224": 224,
    "resnet10t": 64,
    "mobilenet_v2": 224,
}
