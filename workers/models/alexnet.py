"""AlexNet and its six-conv variant at any width and size (Krizhevsky et al. 2012; the release's nets 145, 146)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.models.geometry import POOL_STRIDE, Conv, Geometry, geometry
from workers.models.lrn import LocalResponseNorm
from workers.models.within_map_norm import WithinMapNorm
from workers.settings import Activation, DropoutScaling, ModelSettings

_NORMALISED = ("conv1", "conv2")
# Fully connected layers that an activation and dropout follow.
HIDDEN = ("fc6", "fc7")


class Layers(nn.Module):
    """AlexNet's layers and the operations after each; subclasses connect them.

    Layers are attributes named as in the literature (`conv1` … `fc8`). Checkpoints, `reset`, `freeze` and `lr_scale`
    use the same names.
    """

    def __init__(self, model: ModelSettings, layers: Geometry) -> None:
        super().__init__()
        self.layers = layers
        self.dropout, self.dropout_scaling = model.dropout, model.dropout_scaling
        self._activate = functional.relu if model.activation is Activation.relu else torch.tanh
        self._late_relu = ("conv1",) if model.lrn1_before_relu else ()
        norm_groups = 1 if model.lrn_across_halves else model.groups
        for conv in self.layers.convs:
            module = nn.Conv2d(
                conv.in_channels, conv.out_channels, conv.kernel, conv.stride, conv.padding, groups=conv.groups
            )
            self.add_module(conv.name, module)
            if model.lrn and conv.name in _NORMALISED:
                # A normalisation after a ReLU applies the ReLU in its own pass over memory.
                rectify = model.activation is Activation.relu and conv.name not in self._late_relu
                alpha = model.lrn_alpha if model.lrn_alpha_over_size else model.lrn_alpha * model.lrn_size
                channels = conv.out_channels // norm_groups
                norm = LocalResponseNorm(channels, model.lrn_size, alpha, model.lrn_beta, model.lrn_k, rectify=rectify)
                self.add_module(f"norm_{conv.name}", norm)
            if model.within_map_norm and conv.name == "conv2":
                map_norm = WithinMapNorm(model.lrn_size, model.lrn_alpha, model.lrn_beta, model.lrn_k)
                self.add_module("map_norm_conv2", map_norm)
        for linear in self.layers.linears:
            self.add_module(linear.name, nn.Linear(linear.in_features, linear.out_features))

    def convolve(self, index: int, hidden: Tensor, *, padded: bool = True) -> Tensor:
        """Computes convolution `index`, its activation, normalisation and pooling; `padded` puts zeros around `hidden`.

        Windows of one image can share its outputs (see workers.inference.shared_windows).
        """
        conv = self.layers.convs[index]
        module = self.get_submodule(conv.name)
        assert isinstance(module, nn.Conv2d)
        if padded and conv.padding_end != conv.padding:
            hidden = functional.pad(hidden, (conv.padding, conv.padding_end) * 2)
            padded = False
        padding = conv.padding if padded else 0
        hidden = functional.conv2d(hidden, module.weight, module.bias, conv.stride, padding, groups=conv.groups)
        norm = getattr(self, f"norm_{conv.name}", None)
        map_norm = getattr(self, f"map_norm_{conv.name}", None)
        if norm is None:
            hidden = self._activate(hidden)
        elif conv.name in self._late_relu:
            hidden = self._activate(norm(hidden))
        else:
            hidden = norm(hidden if norm.rectify else self._activate(hidden))
        hidden = hidden if map_norm is None else map_norm(hidden)
        return functional.max_pool2d(hidden, conv.pool, POOL_STRIDE) if conv.pool else hidden

    def connect(self, name: str, hidden: Tensor) -> Tensor:
        """Computes fully connected layer `name`, and the activation after a hidden one."""
        outputs: Tensor = self.get_submodule(name)(hidden)
        return self._activate(outputs) if name in HIDDEN else outputs

    def drop(self, hidden: Tensor) -> Tensor:
        """Applies dropout: scales kept outputs up in training (torch), or all outputs down at test (the release)."""
        dropped = functional.dropout(hidden, self.dropout, self.training)
        return dropped if self.dropout_scaling is DropoutScaling.train else dropped * (1.0 - self.dropout)


class AlexNet(Layers):
    """(conv → ReLU → LRN → pool)² → conv³ → pool (→ conv6) → (FC → dropout)² → FC."""

    def __init__(self, model: ModelSettings, num_classes: int) -> None:
        super().__init__(model, geometry(model, num_classes))

    @property
    def shareable(self) -> tuple[Conv, ...]:
        """The leading convolutions whose pooled outputs depend only on the pixels in their receptive fields."""
        for index, conv in enumerate(self.layers.convs):
            if hasattr(self, f"map_norm_{conv.name}"):
                return self.layers.convs[:index]
        return self.layers.convs

    def forward(self, hidden: Tensor, first: int = 0) -> Tensor:
        """Takes normalised [batch, 3, size, size], or convolution `first`'s input; returns logits [batch, classes]."""
        for index in range(first, len(self.layers.convs)):
            hidden = self.convolve(index, hidden)
        hidden = hidden.flatten(1)
        for linear in self.layers.linears:
            hidden = self.connect(linear.name, hidden)
            hidden = self.drop(hidden) if linear.name in HIDDEN else hidden
        return hidden
