"""LeNet-5 (LeCun, Bottou, Bengio and Haffner 1998)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

# The maps of S2 that each map of C3 sees (the paper's table 1).
_CONNECTIONS = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)


class Subsampling(nn.Module):
    """The mean of 2×2 pixels, times a coefficient of each map plus its bias."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(maps)), nn.Parameter(torch.zeros(maps))

    def forward(self, hidden: Tensor) -> Tensor:
        """Takes [batch, maps, height, width], returns half the height and width."""
        return functional.avg_pool2d(hidden, 2) * self.weight[:, None, None] + self.bias[:, None, None]


class PartlyConnected(nn.Module):
    """A 5×5 convolution whose maps each see only some input maps; `weight` holds the existing connections in a row."""

    # There are 60 connections to 16 maps.
    fan_in = 25 * 60 / 16
    chosen: Tensor

    def __init__(self) -> None:
        super().__init__()
        pairs = [(row, seen) for row, maps in enumerate(_CONNECTIONS) for seen in maps]
        self.weight, self.bias = nn.Parameter(torch.zeros(len(pairs), 5, 5)), nn.Parameter(torch.zeros(16))
        self.register_buffer("chosen", torch.tensor([row * 6 + seen for row, seen in pairs]), persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Takes [batch, 6, height, width], returns [batch, 16, height - 4, width - 4]."""
        whole = self.weight.new_zeros(16 * 6, 5, 5).index_copy(0, self.chosen, self.weight)
        return functional.conv2d(hidden, whole.view(16, 6, 5, 5), self.bias)


class LeNet5(nn.Module):
    """C1 → S2 → C3 → S4 → C5 → F6 → classes, on grey images, with a softmax in place of the paper's RBF outputs.

    The mean of three channels is grey. Trainable parameters are as published: 156, 12, 1,516, 32, 48,120, 10,164.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.c1, self.s2 = nn.Conv2d(1, 6, 5), Subsampling(6)
        self.c3, self.s4 = PartlyConnected(), Subsampling(16)
        self.c5 = nn.Conv2d(16, 120, 5)
        self.f6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Takes normalised [batch, 3, 32, 32], returns logits [batch, classes]."""
        hidden = images.mean(dim=1, keepdim=True)
        hidden = _squashed(self.s2(_squashed(self.c1(hidden))))
        hidden = _squashed(self.s4(_squashed(self.c3(hidden))))
        hidden = _squashed(self.c5(hidden)).flatten(1)
        logits: Tensor = self.output(_squashed(self.f6(hidden)))
        return logits


def _squashed(hidden: Tensor) -> Tensor:
    """Returns the paper's squashing function (appendix A), which maps ±1 to ±1."""
    return 1.7159 * torch.tanh(hidden * (2 / 3))
