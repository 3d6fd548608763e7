"""Measures the outline of any torch module by running it once, on torch's meta device, which needs no memory."""

import torch
from torch import Tensor, nn

from workers.errors import ConfigError
from workers.models.builders import said
from workers.models.layers import Outline
from workers.models.lenet import PartlyConnected
from workers.models.nets import construct
from workers.settings import ModelSettings


def measured(model: ModelSettings, num_classes: int) -> Outline:
    """Returns the outline of `model`.

    Multiply-adds and neurons are those of the convolutions and fully connected layers that run in prediction. A
    transformer's attention does not call such layers, and is not counted.

    Raises:
        ConfigError: its builder fails, the model does not take images of its `input_size`, or gives no logits.
    """
    if not model.code:
        return _measured(model, num_classes, "meta")
    try:
        return _measured(model, num_classes, "meta")
    except ConfigError:
        # A user's code may look at values, which meta tensors lack. What is wrong on the CPU too is told.
        with torch.random.fork_rng(devices=[]):
            return _measured(model, num_classes, "cpu")


def _measured(model: ModelSettings, num_classes: int, device: str) -> Outline:
    module = _constructed(model, num_classes, device)
    counter = _Counter(module)
    images = torch.zeros(2, 3, model.input_size, model.input_size, device=device)
    try:
        with torch.no_grad():
            predicted = module(images[:1])
            counter.stop()
            # Auxiliary classifiers run only in training, and may need larger images.
            trained = module.train()(images)
    # torch's operators and libraries' checks raise these on images of a wrong size; a user's code, anything.
    except Exception as error:
        raise ConfigError(
            f"model.input_size={model.input_size}: {model.name} does not take images of this size ({said(error)}); "
            "give another input_size, usually a larger one"
        ) from error
    _require_logits(model, predicted, (1, num_classes))
    for each in trained if isinstance(trained, tuple) and trained else (trained,):
        _require_logits(model, each, (2, num_classes))
    layers = layer_shapes(module)
    wider = layer_shapes(_constructed(model, num_classes + 1, device))
    heads = [layer for layer in layers if layers[layer] != wider.get(layer)]
    if not heads:
        raise ConfigError(f"{model.name}: no layer has a shape that follows num_classes; give it a last layer")
    # A head of another kind than a convolution or fully connected layer is not counted.
    head = counter.last if counter.last in heads else heads[-1]
    total = sum(parameter.numel() for parameter in module.parameters())
    owned = {name: sum(one.numel() for one in part.parameters(recurse=False)) for name, part in module.named_modules()}
    own = {name: owned[name] for name in layers}
    others = tuple(layer for layer in heads if layer != head)
    return Outline(layers, head, total, counter.num_macs, counter.num_neurons, own, others, counter.strided_on_a_pixel)


def _require_logits(model: ModelSettings, outputs: object, shape: tuple[int, ...]) -> None:
    found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    if found != shape:
        raise ConfigError(
            f"{model.name}: gives {found} for {shape[0]} images, not {shape}, the logits of {shape[1]} classes; only "
            "in training may it give a tuple, the logits of auxiliary classifiers after its own"
        )


def layer_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Returns, by name, the shapes of each module's own parameters as one tuple, each shape after its length."""
    owners = ((name, tuple(part.parameters(recurse=False))) for name, part in module.named_modules())
    return {
        name: tuple(number for one in owned for number in (one.dim(), *one.shape)) for name, owned in owners if owned
    }


def _constructed(model: ModelSettings, num_classes: int, device: str) -> nn.Module:
    with torch.device(device):
        return construct(model, num_classes).eval()


class _Counter:
    """Counts multiply-adds and outputs of convolutions and fully connected layers for one image; `last` ran last."""

    def __init__(self, module: nn.Module) -> None:
        self.num_macs = self.num_neurons = 0
        self.last = self.strided_on_a_pixel = ""
        self._names = {part: name for name, part in module.named_modules()}
        counted = [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear | PartlyConnected)]
        self._hooks = [part.register_forward_hook(self._count) for part in counted]

    def stop(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _count(self, part: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
        assert isinstance(part.weight, Tensor)
        strided = isinstance(part, nn.Conv2d) and max(part.stride) > 1 and max(part.kernel_size) > 1
        if strided and inputs and inputs[0].shape[2:] == (1, 1):
            self.strided_on_a_pixel = self._names[part]
        # A convolution uses a weight once for each pixel of its maps, a fully connected layer once for each row.
        uses = outputs.numel() // outputs.shape[-1 if isinstance(part, nn.Linear) else 1]
        self.num_macs += uses * part.weight.numel()
        self.num_neurons += outputs.numel()
        self.last = self._names[part]
