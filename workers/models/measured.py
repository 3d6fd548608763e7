"""Measures the outline of any torch module by running it once on torch's meta device, which needs no memory."""

import torch
from torch import Tensor, nn

from workers.errors import ConfigError
from workers.models.layers import Outline
from workers.models.lenet import PartlyConnected
from workers.models.nets import construct
from workers.settings import ModelSettings


def measured(model: ModelSettings, num_classes: int) -> Outline:
    """Returns the outline of `model`.

    Multiply-adds and neurons are those of the convolutions and fully connected layers that run in prediction. A
    transformer's attention does not call such layers, and is not counted.

    Raises:
        ConfigError: the model does not take images of its `input_size`.
    """
    module = _on_meta(model, num_classes)
    counter = _Counter(module)
    images = torch.empty(2, 3, model.input_size, model.input_size, device="meta")
    try:
        with torch.no_grad():
            module(images[:1])
            counter.stop()
            # Auxiliary classifiers run only in training, and may need larger images.
            module.train()(images)
    # torch's operators and torchvision's checks raise these on images of a wrong size.
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"model.input_size={model.input_size}: {model.name} does not take images of this size ({reason}); "
            "give another input_size, usually a larger one"
        ) from error
    layers = layer_shapes(module)
    wider = layer_shapes(_on_meta(model, num_classes + 1))
    auxiliary = tuple(layer for layer in layers if layers[layer] != wider[layer] and layer != counter.last)
    total = sum(parameter.numel() for parameter in module.parameters())
    owned = {name: sum(one.numel() for one in part.parameters(recurse=False)) for name, part in module.named_modules()}
    own = {name: owned[name] for name in layers}
    return Outline(layers, counter.last, total, counter.num_macs, counter.num_neurons, own, auxiliary)


def layer_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Returns, by name, the shapes of each module's own parameters as one tuple, each shape after its length."""
    owners = ((name, tuple(part.parameters(recurse=False))) for name, part in module.named_modules())
    return {
        name: tuple(number for one in owned for number in (one.dim(), *one.shape)) for name, owned in owners if owned
    }


def _on_meta(model: ModelSettings, num_classes: int) -> nn.Module:
    with torch.device("meta"):
        return construct(model, num_classes).eval()


class _Counter:
    """Counts multiply-adds and outputs of convolutions and fully connected layers for one image; `last` ran last."""

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
        # A convolution uses a weight once for each pixel of its maps, a fully connected layer once for each row.
        uses = outputs.numel() // outputs.shape[-1 if isinstance(part, nn.Linear) else 1]
        self.num_macs += uses * part.weight.numel()
        self.num_neurons += outputs.numel()
        self.last = self._names[part]
