"""A model as numbers, before anything is built: its layers and what they cost. What a plan counts and checks.

Layers are named as in checkpoints: `conv1` owns `conv1.weight` and `conv1.bias`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

ALEXNET = "alexnet"
MODEL_NAMES = (ALEXNET, "lenet5", "cifar_80s", "cifar_18pct", "highway")
# Before the name of a classification model of torchvision's, as in torchvision/resnet18.
TORCHVISION = "torchvision/"
HEAD, BODY = "head", "body"


@dataclass(frozen=True)
class Outline:
    """Layers in order, and the size of the whole.

    Attributes:
        layers: each layer's name and what has to be equal for weights to be copied into it.
        head: the layer whose outputs are the classes' logits.
        num_parameters: weights and biases.
        num_macs: multiply-adds of one image's forward pass, in convolutions and fully connected layers.
        num_neurons: outputs of those layers for one image.
        parameters: weights and biases of each layer.
        auxiliary_heads: other layers that give logits, in training alone (GoogLeNet's); `head` stands for them too.
    """

    layers: Mapping[str, tuple[int, ...]]
    head: str
    num_parameters: int
    num_macs: int
    num_neurons: int
    parameters: Mapping[str, int]
    auxiliary_heads: tuple[str, ...] = ()

    def select(self, name: str) -> tuple[str, ...]:
        """The layers that `name` stands for: one of that name, those below it (`features` for `features.0`), `head`
        or `body` (all but the head); none where there is no such layer.
        """
        heads = (self.head, *self.auxiliary_heads)
        if name == HEAD:
            return heads
        if name == BODY:
            return tuple(layer for layer in self.layers if layer not in heads)
        return tuple(layer for layer in self.layers if layer == name or layer.startswith(f"{name}."))

    def select_all(self, names: Iterable[str]) -> frozenset[str]:
        """The layers that any of `names` stands for."""
        return frozenset(layer for name in names for layer in self.select(name))

    def factors(self, by_name: Mapping[str, float]) -> dict[str, float]:
        """Each named layer's factor; a name that stands for fewer layers counts over one that stands for more."""
        found: dict[str, float] = {}
        for name in sorted(by_name, key=lambda one: -len(self.select(one))):
            found.update(dict.fromkeys(self.select(name), by_name[name]))
        return found

    def num_trained(self, frozen: Iterable[str]) -> int:
        """Weights and biases that are left to train where the layers `frozen` stay as they are."""
        return self.num_parameters - sum(self.parameters[layer] for layer in frozen)

    def names(self) -> tuple[str, ...]:
        """All that `select` knows besides parts of dotted names."""
        return (*self.layers, HEAD, BODY)
