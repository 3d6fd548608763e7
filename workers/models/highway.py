"""A convolutional Highway network (Srivastava, Greff and Schmidhuber 2015)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

BLOCKS, DEPTH = 3, 3
_FILTERS = 64


class HighwayConv(nn.Module):
    """y = H(x) · T(x) + x · (1 - T(x)): a convolution H and a gate T, the share of H that replaces the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.transform = nn.Conv2d(channels, channels, 3, padding=1)
        self.gate = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Takes and returns [batch, channels, height, width]."""
        share = torch.sigmoid(self.gate(hidden))
        return hidden + share * (functional.relu(self.transform(hidden)) - hidden)


class Highway(nn.Module):
    """A convolution, three blocks of three highway layers, each ending in a max pooling, and the mean of each map."""

    def __init__(self, num_classes: int, width: float) -> None:
        super().__init__()
        channels = max(4, round(_FILTERS * width))
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.ModuleList(nn.ModuleList(HighwayConv(channels) for _ in range(DEPTH)) for _ in range(BLOCKS))
        self.classes = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Takes normalised [batch, 3, size, size], returns logits [batch, classes]."""
        hidden = functional.relu(self.conv1(images))
        for block in self.blocks:
            for layer in block:  # type: ignore[attr-defined]
                hidden = layer(hidden)
            hidden = functional.max_pool2d(hidden, 2)
        logits: Tensor = self.classes(hidden.mean(dim=(2, 3)))
        return logits
