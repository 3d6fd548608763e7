"""Local response normalisation: torch's operators and the compiled kernel against torch's own layer."""

import shutil

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from workers.errors import ConfigError
from workers.kernels import lrn as kernel
from workers.models import LocalResponseNorm
from workers.models.lrn import _LocalResponseNorm, _PooledLocalResponseNorm, band_matrix

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


def denominators(name, rows, size, scale, k):
    """Those that the forward pass of `name` keeps for its gradient; "narrow" sums windows in the type of `rows`."""
    kept = []
    band = band_matrix(rows.shape[1], size)
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        if name == "pooled":
            _PooledLocalResponseNorm.apply(rows, size, scale, k, 0.75)
            return kept[1]
        with torch.autocast("cpu", torch.bfloat16):
            if name == "narrow":
                _LocalResponseNorm.apply(rows, band.to(rows.dtype), scale, k, 0.75)
            else:
                norm = LocalResponseNorm(rows.shape[1], size, scale * size, 0.75, k)
                norm(rows.view(1, 1, *rows.shape).permute(0, 3, 1, 2))
    return kept[2]


@pytest.mark.parametrize("name", ["pooled", "module under autocast", "narrow"])
def test_bfloat16_inputs_have_float32_denominators_that_are_k_no_more_often_than_exact_ones(name):
    generator = torch.Generator().manual_seed(0)
    rows = (torch.randn(500, 64, generator=generator) * 8).relu().bfloat16().requires_grad_()
    found = denominators(name, rows, 5, 2e-5, 2.0)
    squares = rows.detach().double().square()
    exact = 2.0 + 2e-5 * (squares @ band_matrix(64, 5).double())
    share, true_share = ((one == 2.0).double().mean().item() for one in (found, exact.float()))
    if name == "narrow":
        assert (found.dtype, share > 0.75, true_share < 0.05) == (torch.bfloat16, True, True)
        return
    assert (found.dtype, share) == (torch.float32, true_share)
    torch.testing.assert_close(found.double(), exact, rtol=2e-7, atol=0)


@pytest.mark.parametrize("beta", [0.75, 0.5])
@pytest.mark.parametrize("dtype", [torch.double, *BOUNDS])
def test_pooled_form_equals_torchs_layer_within_the_stored_types_rounding(dtype, beta):
    images, grad = drawn((3, 33, 4, 5), dtype)
    rows, grads = (one.permute(0, 2, 3, 1).reshape(-1, 33) for one in (images, grad))
    rows.requires_grad_()
    output = _PooledLocalResponseNorm.apply(rows, 5, 0.3 / 5, 2.0, beta)
    output.backward(grads)
    exact = images.double().requires_grad_()
    theirs = nn.LocalResponseNorm(5, 0.3, beta, 2.0)(exact)
    theirs.backward(grad.double())
    assert output.dtype == rows.grad.dtype == dtype
    for ours, expected in zip((output, rows.grad), (theirs.detach(), exact.grad), strict=True):
        wanted = expected.permute(0, 2, 3, 1).reshape(-1, 33)
        bound = {torch.double: 1e-12, **BOUNDS}[dtype] * max(1.0, wanted.abs().max().item())
        assert (ours.double() - wanted).abs().max().item() <= bound


@pytest.mark.parametrize("dtype", BOUNDS)
def test_module_by_operators_equals_torchs_layer_within_the_stored_types_rounding(dtype):
    images, grad = drawn((2, 16, 5, 7), dtype)
    expected = reference(images, grad, 5, 0.3, 2.0, True)
    images.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        output = LocalResponseNorm(16, 5, 0.3, 0.75, 2.0, rectify=True)(images)
    output.backward(grad)
    assert output.dtype == images.grad.dtype == dtype
    for ours, theirs in zip((output, images.grad), expected, strict=True):
        assert (ours.double() - theirs).abs().max().item() <= BOUNDS[dtype] * max(1.0, theirs.abs().max().item())


def test_float32_on_a_cpu_keeps_the_bits_of_a_product_then_scale_then_k():
    images, _ = drawn((2, 16, 5, 7), torch.float32)
    rows = images.permute(0, 2, 3, 1).reshape(-1, 16)
    root = torch.mm(rows * rows, band_matrix(16, 5)).mul_(0.3 / 5).add_(2.0).rsqrt()
    expected = rows * (root * root.sqrt())
    ours = LocalResponseNorm(16, 5, 0.3, 0.75, 2.0)(images).permute(0, 2, 3, 1).reshape(-1, 16)
    assert torch.equal(ours, expected)


@pytest.mark.soak
@pytest.mark.parametrize("dtype", BOUNDS)
def test_compiler_fuses_the_pooled_form_into_two_loops_each_way_without_a_break(dtype):
    from torch._inductor import metrics

    rows, grads = (one.permute(0, 2, 3, 1).reshape(-1, 32) for one in drawn((2, 32, 3, 4), dtype))
    rows.requires_grad_()

    def pooled(given):
        return _PooledLocalResponseNorm.apply(given, 5, 0.3 / 5, 2.0, 0.75)

    metrics.reset()
    torch.compiler.reset()
    found = torch.compile(pooled, fullgraph=True, dynamic=False)(rows)
    gradient = torch.autograd.grad(found, rows, grads)[0]
    expected = pooled(rows)
    bound = BOUNDS[dtype] * 10
    torch.testing.assert_close(found, expected, rtol=bound, atol=bound)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, rows, grads)[0], rtol=bound, atol=bound)
    assert metrics.generated_kernel_count <= 4


def test_selecting_an_unbuilt_kernel_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(kernel, "_lrn", None)
    with pytest.raises(ConfigError, match="not built here"):
        kernel.select("compiled")


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_kernel_is_built_where_there_is_a_compiler():
    assert kernel.is_built()
