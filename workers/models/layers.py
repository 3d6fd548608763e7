"""A model as numbers, without building it: its layers and their costs, for a plan to count and check.

Layers are named as in checkpoints: `conv1` owns `conv1.weight` and `conv1.bias`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

ALEXNET = "alexnet"
MODEL_NAMES = (ALEXNET, "lenet5", "cifar_80s", "cifar_18pct", "highway")
# The prefixes of two libraries' classification models, as in torchvision/resnet18.
TORCHVISION, TIMM = LIBRARIES = ("torchvision/", "timm/")
HEAD, BODY = "head", "body"


@dataclass(frozen=True)
class Outline:
    """The layers of a model in order, and its size.

    Attributes:
        layers: each layer's name, and numbers that must be equal for weights to be copied between two layers.
        head: the layer whose outputs are the logits.
        num_parameters: weights and biases.
        num_macs: multiply-adds of one image's forward pass, in convolutions and fully connected layers.
        num_neurons: outputs of those layers for one image.
        parameters: weights and biases of each layer.
        auxiliary_heads: other layers that give logits (GoogLeNet's, in training only); `head` selects them too.
        strided_on_a_pixel: a strided convolution of several pixels on maps of one, or "". On CPUs, torch 2.14 computes
            a gradient of its weights in bfloat16 that is 1e16 times too large, or infinite.
    """

    layers: Mapping[str, tuple[int, ...]]
    head: str
    num_parameters: int
    num_macs: int
    num_neurons: int
    parameters: Mapping[str, int]
    auxiliary_heads: tuple[str, ...] = ()
    strided_on_a_pixel: str = ""

    def select(self, name: str) -> tuple[str, ...]:
        """Returns the layers that `name` means: the layer itself, those below it (`features.0` for `features`), the
        `head`, or the `body` (all but the head); none if there is no such layer."""
        heads = (self.head, *self.auxiliary_heads)
        if name == HEAD:
            return heads
        if name == BODY:
            return tuple(layer for layer in self.layers if layer not in heads)
        return tuple(layer for layer in self.layers if layer == name or layer.startswith(f"{name}."))

    def select_all(self, names: Iterable[str]) -> frozenset[str]:
        """Returns the layers that `names` mean."""
        return frozenset(layer for name in names for layer in self.select(name))

    def factors(self, by_name: Mapping[str, float]) -> dict[str, float]:
        """Returns each layer's factor; a name that means fewer layers overrides one that means more."""
        found: dict[str, float] = {}
        for name in sorted(by_name, key=lambda one: -len(self.select(one))):
            found.update(dict.fromkeys(self.select(name), by_name[name]))
        return found

    def num_trained(self, frozen: Iterable[str]) -> int:
        """Counts the weights and biases that are trained if the layers `frozen` are not."""
        return self.num_parameters - sum(self.parameters[layer] for layer in frozen)

    def names(self) -> tuple[str, ...]:
        """Returns all names that `select` takes, except prefixes of dotted names."""
        return (*self.layers, HEAD, BODY)
