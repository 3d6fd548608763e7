"""Local response normalisation: torch's operators and the compiled kernel against torch's own layer."""

import shutil

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from workers.errors import ConfigError
from workers.kernels import lrn as kernel
from workers.models import LocalResponseNorm

# Rounding of the stored type, times a little for the sums of a window.
BOUNDS = {torch.float32: 2e-6, torch.bfloat16: 8e-3}


def reference(images: Tensor, grad: Tensor, size: int, alpha: float, k: float, rectify: bool) -> tuple[Tensor, Tensor]:
    """Output and gradient of torch's own layer in float64."""
    exact = images.double().requires_grad_()
    output = nn.LocalResponseNorm(size, alpha, 0.75, k)(exact.relu() if rectify else exact)
    output.backward(grad.double())
    assert exact.grad is not None
    return output.detach(), exact.grad


def drawn(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images, grad = (torch.randn(shape, generator=generator) * 3 for _ in range(2))
    return tuple(one.to(dtype).contiguous(memory_format=torch.channels_last) for one in (images, grad))


@pytest.mark.parametrize("beta", [0.75, 0.5])
def test_torch_path_equals_torchs_layer_to_1e_12_in_float64(beta):
    images, weights = drawn((2, 16, 5, 7), torch.double)
    images.requires_grad_()
    ours, theirs = LocalResponseNorm(16, 5, 0.3, beta, 2.0), nn.LocalResponseNorm(5, 0.3, beta, 2.0)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad((norm(images) * weights).sum(), images)[0] for norm in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", BOUNDS)
@settings(max_examples=40, deadline=None)
@given(
    channels=st.sampled_from([1, 2, 7, 32, 96, 130, 1100]),
    size=st.sampled_from([1, 3, 5, 9, 31]),
    alpha=st.sampled_from([1e-4, 0.3]),
    k=st.sampled_from([1.0, 2.0]),
    rectify=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_kernel_equals_torchs_layer_within_the_stored_types_rounding(dtype, channels, size, alpha, k, rectify, seed):
    images, grad = drawn((2, channels, 3, 4), dtype, seed)
    expected = reference(images, grad, size, alpha, k, rectify)
    images.requires_grad_()
    output = LocalResponseNorm(channels, size, alpha, 0.75, k, rectify=rectify)(images)
    output.backward(grad)
    for ours, theirs in zip((output, images.grad), expected, strict=True):
        bound = BOUNDS[dtype] * max(1.0, theirs.abs().max().item())
        assert (ours.double() - theirs).abs().max().item() <= bound


@pytest.mark.usefixtures("compiled")
def test_kernel_is_what_runs_once_selected_and_not_before():
    rows = torch.randn(6, 8)
    assert kernel.serves(rows, 5, 0.75)
    assert not kernel.serves(rows.double(), 5, 0.75)
    assert not kernel.serves(rows, 5, 0.5)
    kernel.select("torch")
    assert not kernel.serves(rows, 5, 0.75)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", BOUNDS)
def test_kernel_gives_the_same_bits_with_any_number_of_threads(dtype):
    images, grad = drawn((3, 24, 5, 7), dtype)
    rows, grads = (one.permute(0, 2, 3, 1).reshape(-1, 24) for one in (images, grad))
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(
                torch.cat([kernel.apply(rows, None, 5, 0.1, 2.0, True), kernel.apply(rows, grads, 5, 0.1, 2.0, True)])
            )
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, results[0]) for one in results)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_kernel_lets_no_divergence_pass_as_a_number(dtype, rectify, poison):
    rows = torch.ones(2, 9, dtype=dtype)
    rows[1, 4] = poison
    output = kernel.apply(rows, None, 5, 0.1, 2.0, rectify)
    assert torch.isfinite(output[0]).all()
    assert not torch.isfinite(output[1, 4])
    gradient = kernel.apply(rows, torch.ones_like(rows), 5, 0.1, 2.0, rectify)
    assert torch.isfinite(gradient[0]).all()
    assert not torch.isfinite(gradient[1, 4])
    full_mantissa = torch.tensor([[0x7FFF, 0x3F80]], dtype=torch.int16).view(torch.bfloat16)
    assert torch.isnan(kernel.apply(full_mantissa, None, 1, 0.1, 2.0, False)[0, 0])


def test_selecting_an_unbuilt_kernel_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(kernel, "_lrn", None)
    with pytest.raises(ConfigError, match="not built here"):
        kernel.select("compiled")


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_kernel_is_built_where_there_is_a_compiler():
    assert kernel.is_built()
