"""The outline of any torch module, measured: built without memory (torch's meta device) and run once on no image."""

import torch
from torch import Tensor, nn

from workers.errors import ConfigError
from workers.models.layers import Outline
from workers.models.lenet import PartlyConnected
from workers.models.nets import construct
from workers.settings import ModelSettings


def measured(model: ModelSettings, num_classes: int) -> Outline:
    """Builds `model` and counts.

    Multiply-adds and neurons are those of the convolutions and fully connected layers that run when it predicts; a
    transformer's attention, which calls its weights by another way, is left out of them.

    Raises:
        ConfigError: the model does not take images of its `input_size`, or lacks a size that it is given.
    """
    module = _on_meta(model, num_classes)
    counter = _Counter(module)
    images = torch.empty(2, 3, model.input_size, model.input_size, device="meta")
    try:
        with torch.no_grad():
            module(images[:1])
            counter.stop()
            # Auxiliary classifiers run in training alone, and may want larger images.
            module.train()(images)
    # What torch's operators and torchvision's own checks raise on images that are too small, or not of their size.
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"model.input_size={model.input_size}: {model.name} does not take such images ({reason}); "
            "give another input_size, most often a larger one"
        ) from error
    layers = layer_shapes(module)
    wider = layer_shapes(_on_meta(model, num_classes + 1))
    auxiliary = tuple(layer for layer in layers if layers[layer] != wider[layer] and layer != counter.last)
    total = sum(parameter.numel() for parameter in module.parameters())
    owned = {name: sum(one.numel() for one in part.parameters(recurse=False)) for name, part in module.named_modules()}
    own = {name: owned[name] for name in layers}
    return Outline(layers, counter.last, total, counter.num_macs, counter.num_neurons, own, auxiliary)


def layer_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Every module that owns parameters, by name, with their shapes one after the other, each after its length."""
    owners = ((name, tuple(part.parameters(recurse=False))) for name, part in module.named_modules())
    return {
        name: tuple(number for one in owned for number in (one.dim(), *one.shape)) for name, owned in owners if owned
    }


def _on_meta(model: ModelSettings, num_classes: int) -> nn.Module:
    with torch.device("meta"):
        return construct(model, num_classes).eval()


class _Counter:
    """Adds up what convolutions and fully connected layers do for one image; `last` is the one that ran last."""

    def __init__(self, module: nn.Module) -> None:
        self.num_macs = self.num_neurons = 0
        self.last = ""
        self._names = {part: name for name, part in module.named_modules()}
        counted = [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear | PartlyConnected)]
        self._hooks = [part.register_forward_hook(self._count) for part in counted]

    def stop(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _count(self, part: nn.Module, _inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
        assert isinstance(part.weight, Tensor)
        # A weight is used once for each pixel of its maps, or once for each row that a layer is given.
        uses = outputs.numel() // outputs.shape[-1 if isinstance(part, nn.Linear) else 1]
        self.num_macs += uses * part.weight.numel()
        self.num_neurons += outputs.numel()
        self.last = self._names[part]
