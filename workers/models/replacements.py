"""Layers that replace those of others' nets: poolings on GPUs, and convolutions in bfloat16 on CPUs."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.utils import _pair


class AveragePool(nn.Module):
    """Equal to `torch.nn.AdaptiveAvgPool2d(size)`, by products with two matrices: their gradients are deterministic.

    It computes in float32, also under autocast. Has never run on a GPU.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, maps: Tensor) -> Tensor:
        """Takes [batch, channels, height, width], returns [batch, channels, *size]."""
        if maps.shape[2:] == self.size:
            return maps
        rows, columns = (_means(*sizes, maps.device) for sizes in zip(maps.shape[2:], self.size, strict=True))
        with torch.autocast(maps.device.type, enabled=False):
            return torch.einsum("nchw,oh,pw->ncop", maps.float(), rows, columns).to(maps.dtype)


def _means(inputs: int, outputs: int, device: torch.device) -> Tensor:
    """Returns [outputs, inputs]: output i is the mean from ⌊i · inputs / outputs⌋ to ⌈(i + 1) · inputs / outputs⌉."""
    index, seen = torch.arange(outputs, device=device)[:, None], torch.arange(inputs, device=device)
    inside = (seen >= index * inputs // outputs) & (seen < ((index + 1) * inputs + outputs - 1) // outputs)
    return inside / inside.sum(1, keepdim=True)


def replace_poolings(module: nn.Module) -> None:
    """Replaces the poolings whose gradient torch refuses to compute on a GPU (AlexNet, VGG, GoogLeNet); keeps names."""
    from torchvision.models.googlenet import InceptionAux

    for name, child in tuple(module.named_modules()):
        # torch computes a pooling to one pixel as a mean.
        if isinstance(child, nn.AdaptiveAvgPool2d) and (size := _pair(child.output_size)) != (1, 1):
            module.set_submodule(name, AveragePool(size))
        elif isinstance(child, InceptionAux):
            child.forward = partial(_auxiliary_logits, child, AveragePool((4, 4)))


def _auxiliary_logits(classifier: Any, pool: AveragePool, maps: Tensor) -> Tensor:
    """Computes GoogLeNet's auxiliary classifier as torchvision does, with another pooling."""
    hidden = classifier.conv(pool(maps)).flatten(1)
    hidden = classifier.dropout(functional.relu(classifier.fc1(hidden), inplace=True))
    return classifier.fc2(hidden)  # type: ignore[no-any-return]


def replace_convolutions(module: nn.Module) -> None:
    """Makes plain and depthwise convolutions train as `ByShape` says; keeps names and weights."""
    for child in module.modules():
        plain = type(child) is nn.Conv2d and child.padding_mode == "zeros" and not isinstance(child.padding, str)
        if plain and child.dilation == (1, 1) and child.groups in (1, child.in_channels):
            child.__class__ = ByShape


class ByShape(nn.Conv2d):
    """A convolution that in training, under autocast on a CPU, is computed as suits its shape; else it is torch's.

    In bfloat16 torch 2.14 (oneDNN) is slow where rows of outputs have two pixels (matrix products: up to 3.5 times as
    fast), and at some gradients of depthwise ones (float32: up to 300 times). See benchmarks/convolutions.py.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 – torch's name
        large, narrow = input.shape[3] > 2 * self.stride[1], max(self.stride) == 1 and max(self.kernel_size) <= 3
        if (large if self.groups == 1 else narrow) or not (self.training and torch.is_autocast_enabled("cpu")):
            return super()._conv_forward(input, weight, bias)  # type: ignore[no-any-return]
        if self.groups == 1:
            return _Products.apply(input, weight, bias, self.stride, self.padding)  # type: ignore[no-any-return]
        with torch.autocast("cpu", enabled=False):
            return super()._conv_forward(input.float(), weight, bias).bfloat16()  # type: ignore[no-any-return]


class _Products(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)  # type: ignore[untyped-decorator]
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, *settings: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.settings = settings
        outputs = functional.linear(_windows(images, weight, *settings), weight.movedim(1, -1).flatten(1), bias)
        return outputs.movedim(-1, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (images, weight), (stride, padding), rows = ctx.saved_tensors, ctx.settings, grad.movedim(1, -1).flatten(0, 2)
        of_weight = (rows.T @ _windows(images, weight, stride, padding).flatten(0, 2)).view_as(weight.movedim(1, -1))
        if max(stride) > 1:
            settings = None, stride, padding, (1, 1), False, (0, 0), 1, (True, False, False)
            of_images = torch.ops.aten.convolution_backward(grad, images, weight, *settings)[0]
        else:
            margins = weight.shape[2] - 1 - padding[0], weight.shape[3] - 1 - padding[1]
            turned = weight.flip(2, 3).permute(2, 3, 0, 1).flatten(0, 2)
            of_images = (_windows(grad, weight, stride, margins) @ turned).movedim(-1, 1)
        return of_images, of_weight.movedim(-1, 1), rows.sum(0) if ctx.needs_input_grad[2] else None, None, None


def _windows(maps: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """Returns the pixels that each output sees, [batch, height, width, kernel height · kernel width · channels]."""
    padded = functional.pad(maps.movedim(1, -1), (0, 0, padding[1], padding[1], padding[0], padding[0]))
    seen = padded.unfold(1, weight.shape[2], stride[0]).unfold(2, weight.shape[3], stride[1])
    return seen.permute(0, 1, 2, 4, 5, 3).flatten(3)
