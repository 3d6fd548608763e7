"""Maps each model to the class or function that builds it."""

from torch import nn

from workers.models import builders
from workers.models.alexnet import AlexNet
from workers.models.cifar_net import CifarNet
from workers.models.halves import HalvedAlexNet
from workers.models.highway import Highway
from workers.models.layers import MODEL_NAMES
from workers.models.lenet import LeNet5
from workers.settings import Layout, ModelSettings

_CIFAR_HIDDEN_UNITS = {"cifar_80s": 64, "cifar_18pct": 0}


def construct(model: ModelSettings, num_classes: int) -> nn.Module:
    """Builds `model` without checking its settings, which `outline` does."""
    if model.name not in MODEL_NAMES:
        return builders.construct(model, num_classes)
    if model.name == "lenet5":
        return LeNet5(num_classes)
    if model.name == "highway":
        return Highway(num_classes, model.width)
    if model.name in _CIFAR_HIDDEN_UNITS:
        return CifarNet(model.input_size, num_classes, hidden_units=_CIFAR_HIDDEN_UNITS[model.name])
    return HalvedAlexNet(model, num_classes) if model.layout is Layout.halves else AlexNet(model, num_classes)
