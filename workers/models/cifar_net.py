"""cuda-convnet's nets for CIFAR-10 (Krizhevsky 2011): one with 26 % error after 80 seconds, one with 18 %."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.models.within_map_norm import WithinMapNorm

_FILTERS = (32, 32, 64)


def _pooled(size: int) -> int:
    """Returns the pixels after a pooling of 3 with stride 2 whose last window may reach past the edge."""
    return -(-(size - 3) // 2) + 1


class CifarNet(nn.Module):
    """conv → max pool → ReLU, twice conv → ReLU → average pool, a hidden layer of 64 units or none, the classes.

    Convolutions are 5×5 with 2 pixels of padding, poolings 3×3 with stride 2. Without a hidden layer, a normalisation
    within each map follows the first two poolings, as in the net with 18 % error.
    """

    def __init__(self, input_size: int, num_classes: int, *, hidden_units: int) -> None:
        super().__init__()
        channels, size = 3, input_size
        for number, filters in enumerate(_FILTERS, start=1):
            self.add_module(f"conv{number}", nn.Conv2d(channels, filters, 5, padding=2))
            channels, size = filters, _pooled(size)
        self.hidden_units = hidden_units
        features = channels * size**2
        if hidden_units:
            self.fc64 = nn.Linear(features, hidden_units)
        else:
            self.norm1, self.norm2 = (WithinMapNorm(3, 5e-5, 0.75, 1.0) for _ in range(2))
        self.fc10 = nn.Linear(hidden_units or features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Takes normalised [batch, 3, size, size], returns logits [batch, classes]."""
        # ReLU after pooling gives the same result for a quarter of the work.
        hidden = functional.relu(functional.max_pool2d(self.get_submodule("conv1")(images), 3, 2, ceil_mode=True))
        hidden = hidden if self.hidden_units else self.norm1(hidden)
        hidden = _average(functional.relu(self.get_submodule("conv2")(hidden)))
        hidden = hidden if self.hidden_units else self.norm2(hidden)
        hidden = _average(functional.relu(self.get_submodule("conv3")(hidden)))
        if self.training and hidden.requires_grad and hidden.device.type == "cpu":
            # torch pools the gradient back faster in the layout of the images (4 to 7 % of a step); the same bits.
            lay_out = partial(torch.Tensor.contiguous, memory_format=torch.channels_last)
            hidden.register_hook(lay_out)  # type: ignore[no-untyped-call]
        hidden = hidden.flatten(1)
        if self.hidden_units:
            hidden = functional.relu(self.fc64(hidden))
        logits: Tensor = self.fc10(hidden)
        return logits


def _average(hidden: Tensor) -> Tensor:
    return functional.avg_pool2d(hidden, 3, 2, ceil_mode=True)
