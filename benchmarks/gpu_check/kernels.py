"""Compares kernels and the net on the device with references on the CPU."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import synthetic
from benchmarks.gpu_check import devices, stages
from benchmarks.gpu_check.checks import Finding, Target
from workers import numerics
from workers.errors import Stopped
from workers.models import LocalResponseNorm, build, initialise, place
from workers.settings import InitSettings
from workers.training import mean_loss, run_stage

# Largest error beside the largest value of the reference.
# In bf16 three roundings of 2^-9, which a denominator in bf16 exceeds.
_LRN_BOUNDS = {"fp32": 1e-5, "bf16": 6e-3}
# Norm of the error beside the reference's: float32 gives some 1e-6, TF32 some 1e-3.
_NET_BOUND = 1e-4
# Of the largest value: a GPU may round a product and its sum at once.
_INPUT_BOUND = 1e-6


def lrn(target: Target) -> Finding:
    """Compares LRN and its gradient with torch's own in float64, on conv1's and conv2's shapes."""
    batch = 2 if target.quick else 16
    shapes = {"conv1": (batch, 96, 55, 55), "conv2": (batch, 256, 27, 27)}
    figures: dict[str, Any] = {}
    lines, wrong = [], []
    for precision, bound in _LRN_BOUNDS.items():
        if precision == "bf16" and not devices.bf16(target.device):
            lines.append("bf16: this GPU has none in hardware, not checked")
            continue
        numerics.apply(stages.numerics(target, precision))
        for name, shape in shapes.items():
            forward, backward = _lrn_errors(target, precision, shape)
            figures[f"{name}_{precision}"] = {"forward": forward, "gradient": backward, "bound": bound}
            line = f"{name} {precision}: error {forward:.1e}, gradient's {backward:.1e} of at most {bound:.0e}"
            (lines if max(forward, backward) <= bound else wrong).append(line)
    return Finding(not wrong, figures, [*wrong, *lines])


def _lrn_errors(target: Target, precision: str, shape: tuple[int, int, int, int]) -> tuple[float, float]:
    generator = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    # As large as activations on the scale of 2012, so that denominators differ from k.
    images, grad = (torch.randn(shape, generator=generator).mul_(scale).to(dtype) for scale in (100.0, 1.0))

    def both(norm: nn.Module, device: str, to: torch.dtype) -> tuple[Tensor, Tensor]:
        inputs = images.to(device, to).contiguous(memory_format=torch.channels_last).requires_grad_()
        with numerics.autocast(stages.numerics(target, precision)):
            outputs = norm(inputs)
        outputs.backward(grad.to(device, outputs.dtype))
        assert inputs.grad is not None
        return outputs.detach().cpu().double(), inputs.grad.cpu().double()

    ours = both(LocalResponseNorm(shape[1], 5, 1e-4, 0.75, 2.0).to(target.device), target.device, dtype)
    reference = both(nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0), "cpu", torch.float64)
    first, second = (_error(mine, theirs) for mine, theirs in zip(ours, reference, strict=True))
    return first, second


def _error(ours: Tensor, reference: Tensor) -> float:
    return float((ours - reference).abs().max() / reference.abs().max())


def net(target: Target) -> Finding:
    """Compares the net's logits and gradients in float32 with the CPU's, from equal weights and images."""
    settings, classes = (stages.RECIPE.model, 10) if target.quick else (synthetic.FULL_SIZE, 1000)
    numerics.apply(stages.numerics(target, "fp32"))
    images = torch.randn(4, 3, settings.input_size, settings.input_size, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(4)

    def both(device: str) -> tuple[Tensor, Tensor]:
        model = build(settings, classes).to(memory_format=torch.channels_last)
        initialise(model, InitSettings(), seed=1)
        place(model, device)
        model.eval()
        logits = model(images.to(device))
        mean_loss(logits, labels.to(device)).backward()
        grads = [weight.grad.flatten().cpu() for weight in model.parameters() if weight.grad is not None]
        return logits.detach().cpu(), torch.cat(grads)

    pairs = zip(("logits", "gradient"), both(target.device), both("cpu"), strict=True)
    figures = {name: float((ours - cpu).norm() / cpu.norm()) for name, ours, cpu in pairs}
    line = f"error of logits {figures['logits']:.1e}, of the gradient {figures['gradient']:.1e}, "
    ok = all(value <= _NET_BOUND for value in figures.values())
    return Finding(ok, {**figures, "bound": _NET_BOUND}, [f"{line}of at most {_NET_BOUND:.0e} (norms, fp32)"])


def net_input(target: Target) -> Finding:
    """Compares the images that reach the net in a stage's first updates with those on the CPU."""
    ours, reference = _inputs(target, "ours"), _inputs(replace(target, device="cpu"), "reference")
    pairs = list(zip(ours, reference, strict=True))
    largest = max((float((mine - other).abs().max() / other.abs().max()) for mine, other in pairs), default=1.0)
    said = f"the net's images differ from the CPU's by up to {largest:.1e}, of at most {_INPUT_BOUND:.0e}"
    return Finding(largest <= _INPUT_BOUND, {"batches": len(ours), "largest_difference": largest}, [said])


def _inputs(target: Target, name: str) -> list[Tensor]:
    """Trains two updates and returns the images that the model was called with."""
    spec = stages.stage(target, f"input-{name}", "fp32")
    batch = spec.recipe.optimizer.batch_size
    seen: list[Tensor] = []

    def note(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
        images = arguments[0]
        if len(seen) < 2 and images.shape[1] == 3 and len(images) == batch:
            seen.append(images.detach().float().cpu().clone())

    handle = nn.modules.module.register_module_forward_pre_hook(note)
    try:
        run_stage(spec, _after(2))
    except Stopped:
        return seen
    finally:
        handle.remove()
    raise AssertionError("the stage ended before its second update")


def _after(updates: int) -> Callable[[], bool]:
    asked = iter(range(1, 10**9))
    return lambda: next(asked) >= updates
