"""AlexNet and its six-conv variant at any width and size (Krizhevsky et al. 2012; the release's nets 145, 146)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.models.geometry import POOL_SIZE, POOL_STRIDE, Geometry, geometry
from workers.models.lrn import LocalResponseNorm
from workers.settings import InitScheme, InitSettings, ModelSettings

_NORMALISED = ("conv1", "conv2")
_BIASED = ("conv2", "conv4", "conv5", "conv6", "fc6", "fc7")


class AlexNet(nn.Module):
    """(conv → ReLU → LRN → pool)² → conv³ → pool (→ conv6) → (FC → dropout)² → FC.

    Layers are attributes named as in the literature (`conv1` … `fc8`), so that checkpoints, `reset`, `freeze` and
    `lr_scale` speak of the same things.
    """

    def __init__(self, model: ModelSettings, num_classes: int) -> None:
        super().__init__()
        self.layers: Geometry = geometry(model, num_classes)
        self.dropout = model.dropout
        for conv in self.layers.convs:
            module = nn.Conv2d(
                conv.in_channels, conv.out_channels, conv.kernel, conv.stride, conv.padding, groups=conv.groups
            )
            self.add_module(conv.name, module)
            if model.lrn and conv.name in _NORMALISED:
                norm = LocalResponseNorm(
                    conv.out_channels, model.lrn_size, model.lrn_alpha, model.lrn_beta, model.lrn_k, rectify=True
                )
                self.add_module(f"norm_{conv.name}", norm)
        for linear in self.layers.linears:
            self.add_module(linear.name, nn.Linear(linear.in_features, linear.out_features))

    def forward(self, images: Tensor) -> Tensor:
        """Takes normalised [batch, 3, size, size], gives logits [batch, classes]."""
        return self.classify(images)

    def classify(self, hidden: Tensor, first: int = 0) -> Tensor:
        """From the input of convolution `first` (0 is conv1) to logits [batch, classes]."""
        for index in range(first, len(self.layers.convs)):
            hidden = self.convolve(index, hidden)
        hidden = hidden.flatten(1)
        for name in ("fc6", "fc7"):
            hidden = functional.relu(self.get_submodule(name)(hidden))
            hidden = functional.dropout(hidden, self.dropout, self.training)
        logits: Tensor = self.get_submodule("fc8")(hidden)
        return logits

    def convolve(self, index: int, hidden: Tensor, *, padded: bool = True) -> Tensor:
        """Convolution `index` with all that follows it up to the next; without zeros around `hidden` if not `padded`.

        Windows of one image can share its outputs (see workers.shared_windows).
        """
        conv = self.layers.convs[index]
        module = self.get_submodule(conv.name)
        assert isinstance(module, nn.Conv2d)
        padding = conv.padding if padded else 0
        hidden = functional.conv2d(hidden, module.weight, module.bias, conv.stride, padding, groups=conv.groups)
        norm = getattr(self, f"norm_{conv.name}", None)
        # A normalisation rectifies in its own pass over memory.
        hidden = functional.relu(hidden) if norm is None else norm(hidden)
        return functional.max_pool2d(hidden, POOL_SIZE, POOL_STRIDE) if conv.pooled else hidden


def initialise(
    model: nn.Module, init: InitSettings, generator: torch.Generator, layers: set[str] | None = None
) -> None:
    """Draws the weights of `layers` (all if None): He et al. 2015 (fan-in, gain √2), or N(0, std²).

    fc8 is drawn from N(0, std²) under both: logits that start near zero learn the superset's 40 classes sooner (loss
    3.36 against 3.45 after three epochs, docs/experiments.md).
    """
    for name, module in model.named_children():
        if not isinstance(module, nn.Conv2d | nn.Linear) or (layers is not None and name not in layers):
            continue
        std = init.std
        if init.scheme is InitScheme.he and name != "fc8":
            std = (2.0 / module.weight[0].numel()) ** 0.5
        assert module.bias is not None
        with torch.no_grad():
            module.weight.normal_(0.0, std, generator=generator)
            module.bias.fill_(init.bias if name in _BIASED else 0.0)
