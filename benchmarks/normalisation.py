"""Local response normalisation, forward and backward, against torch's own, at AlexNet's two layers."""

import torch
from torch import Tensor, nn

from benchmarks.compare import Comparison, compare
from workers.models.lrn import LocalResponseNorm

BATCH = 16


def _step(layer: nn.Module, images: Tensor) -> None:
    images.grad = None
    layer(images).sum().backward()


def run(channels: int, side: int) -> Comparison:
    """Compares the two on [16, channels, side, side] float32, each in its best layout, after checking they agree."""
    generator = torch.Generator().manual_seed(0)
    contiguous = torch.randn(BATCH, channels, side, side, generator=generator).requires_grad_()
    channels_last = contiguous.detach().clone(memory_format=torch.channels_last).requires_grad_()
    ours = LocalResponseNorm(channels, size=5, alpha=1e-4, beta=0.75, k=2.0)
    peer = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0)
    torch.testing.assert_close(ours(channels_last), peer(contiguous))
    return compare(lambda: _step(ours, channels_last), lambda: _step(peer, contiguous))
