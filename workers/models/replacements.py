"""Layers that replace those of others' nets: poolings on GPUs, and convolutions in bfloat16 on CPUs."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.utils import _pair

_Pair = Sequence[int]


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
    logits: Tensor = classifier.fc2(hidden)
    return logits


def replace_convolutions(module: nn.Module) -> None:
    """Makes plain and depthwise convolutions train as `ByShape` says; keeps names and weights."""
    for child in module.modules():
        is_plain = type(child) is nn.Conv2d and child.padding_mode == "zeros" and child.dilation == (1, 1)
        if is_plain and child.groups in (1, child.in_channels) and not isinstance(child.padding, str):
            child.__class__ = ByShape


class ByShape(nn.Conv2d):
    """A convolution that in training, under autocast on a CPU, is computed as suits its shape; else it is torch's.

    In bfloat16 torch 2.14 (oneDNN) is slow at some shapes. Where maps have few pixels, products of matrices are up to
    3.5 times as fast. It lacks kernels for some gradients of depthwise convolutions, and those for others are slow:
    float32 is up to 300 times as fast. Limits are from one core of an AMD EPYC with AVX512-BF16.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 – torch's name
        if not (self.training and torch.is_autocast_enabled("cpu")):
            return super()._conv_forward(input, weight, bias)  # type: ignore[no-any-return]
        given = (None if each is None else each.to(torch.get_autocast_dtype("cpu")) for each in (input, weight, bias))
        return _Convolution.apply(*given, self.stride, self.padding, self.groups)  # type: ignore[no-any-return]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> Tensor:
        ctx.save_for_backward(images, weight)
        stride, padding, groups = ctx.settings = settings
        width = (images.shape[3] + 2 * padding[1] - weight.shape[3]) // stride[1] + 1
        if groups > 1 or not _is_small(width, weight):
            return torch.conv2d(images, weight, bias, stride, padding, 1, groups)
        windows = _windows(images, weight, stride, padding)
        return functional.linear(windows, weight.movedim(1, -1).flatten(1), bias).movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = given = ctx.saved_tensors
        (stride, padding, groups), kernel, width = ctx.settings, weight.shape[2:], grad.shape[3]
        own = [max(stride) > 1, max(kernel) > 3, False]
        if groups == 1:
            few = width <= 4 or (width <= 7 and weight.numel() >= 2**19)
            own = [max(stride) == 1 and _is_small(images.shape[3], weight), few, few]

        def by_torch(*tensors: Tensor, mine: bool) -> list[Tensor | None]:
            mask = [want and one is mine for want, one in zip(ctx.needs_input_grad, own, strict=False)]
            settings = [len(weight)], stride, padding, (1, 1), False, (0, 0), groups, mask
            return list(torch.ops.aten.convolution_backward(*tensors, *settings)) if any(mask) else [None] * 3

        found = by_torch(grad, *given, mine=False)
        if groups > 1 and any(own):
            wide = by_torch(grad.float(), images.float(), weight.float(), mine=True)
            found = [one if other is None else other for one, other in zip(found, wide, strict=True)]
        elif groups == 1 and own[0] and ctx.needs_input_grad[0]:
            margins = [size - 1 - pad for size, pad in zip(kernel, padding, strict=True)]
            turned = weight.flip(2, 3).permute(2, 3, 0, 1).flatten(0, 2)
            found[0] = (_windows(grad, weight, stride, margins) @ turned).movedim(-1, 1)
        if groups == 1 and few and ctx.needs_input_grad[1]:
            products = grad.movedim(1, -1).flatten(0, 2).T @ _windows(images, weight, stride, padding).flatten(0, 2)
            found[1:] = products.view(len(weight), *kernel, -1).movedim(-1, 1), grad.sum((0, 2, 3))
        return *found, None, None, None


def _is_small(width: int, weight: Tensor) -> bool:
    return width <= 2 or (width <= 4 and weight.numel() >= 2**21)


def _windows(maps: Tensor, weight: Tensor, stride: _Pair, padding: _Pair) -> Tensor:
    """Returns the pixels that each output sees, [batch, height, width, kernel height · kernel width · channels]."""
    (high, wide), (up, left), (down, right) = weight.shape[2:], padding, stride
    padded = functional.pad(maps.movedim(1, -1), (0, 0, left, left, up, up)) if up or left else maps.movedim(1, -1)
    if high == wide == 1:
        return padded[:, ::down, ::right]
    return padded.unfold(1, high, down).unfold(2, wide, right).permute(0, 1, 2, 4, 5, 3).flatten(3)
