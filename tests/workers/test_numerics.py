"""What a machine can do that changes bits, what of a run's numerics it lacks, and what they set in torch."""

import gc
import os
import warnings
import weakref
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
import torch._inductor.config as inductor

from workers.errors import ConfigError
from workers.kernels import lrn
from workers.models import build, initialise
from workers.numerics import (
    Capabilities,
    apply,
    autocast,
    capabilities,
    compiled,
    cpu_model,
    memory_returned,
    missing,
    refusals,
    shared_casts,
    usable,
)
from workers.protocol import COMPILE_MODES, Numerics
from workers.settings import InitSettings, ModelSettings

_ALL = Capabilities(bf16=True, compiled_kernels=True)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="no /proc/cpuinfo")
def test_capabilities_agree_with_torch_and_the_kernel_itself():
    found = capabilities()
    assert found.bf16 == bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    assert found.compiled_kernels == lrn.is_built()


@pytest.mark.parametrize(("flags", "bf16"), [("fpu avx512_bf16", True), ("amx_tile amx_bf16", True), ("avx2", False)])
def test_bf16_is_read_from_the_cpus_flags(tmp_path, flags, bf16):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n\n")
    assert capabilities(tmp_path / "cpuinfo").bf16 is bf16
    assert not capabilities(tmp_path / "absent").bf16


def test_only_what_a_run_uses_can_be_missing():
    run = Numerics(precision="bf16", kernels="compiled")
    assert missing(run, _ALL) == ""
    assert "kernels" in missing(run, replace(_ALL, compiled_kernels=False))
    assert "bfloat16" in missing(run, replace(_ALL, bf16=False))
    assert missing(Numerics(), Capabilities(bf16=False, compiled_kernels=False)) == ""
    assert missing(replace(run, device="cuda", kernels="torch"), replace(_ALL, bf16=False)) == ""


def test_predicting_goes_on_with_torch_where_kernels_are_absent():
    run = Numerics(threads=2, precision="bf16", kernels="compiled")
    assert usable(run, _ALL) == run
    assert usable(run, replace(_ALL, compiled_kernels=False)) == replace(run, kernels="torch")


def state():
    """What `apply` sets for GPUs, as torch's readers tell it."""
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "compiler": inductor.deterministic,
        "cudnn": (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark),
        "filled": torch.utils.deterministic.fill_uninitialized_memory,
        "tf32": {
            torch.backends.cuda.matmul.fp32_precision == "tf32",
            torch.backends.cudnn.conv.fp32_precision == "tf32",
        },
        "older readers": (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32),
        "on CPUs": (torch.backends.mkldnn.matmul.fp32_precision, torch.backends.mkldnn.conv.fp32_precision),
    }


@pytest.fixture
def on_a_cpu_again(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield
    apply(Numerics())


@pytest.mark.usefixtures("on_a_cpu_again")
def test_apply_sets_gpus_and_cpus_up_explicitly_whatever_was_before():
    apply(Numerics())
    on_cpu = state()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    assert not on_cpu["deterministic"]
    assert on_cpu["filled"]
    for precision in ("fp32", "tf32", "bf16"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            apply(Numerics(device="cuda", precision=precision))
            found = state()
            with torch.backends.cudnn.flags(enabled=True):
                pass
        assert found["deterministic"]
        assert found["compiler"]
        assert not found["filled"]
        assert found["cudnn"] == (True, False)
        assert found["tf32"] == {precision == "tf32"}
        assert found["older readers"] == (("high", True) if precision == "tf32" else ("highest", False))
        assert found["on CPUs"] == on_cpu["on CPUs"]
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    apply(Numerics())
    assert state() == on_cpu


@pytest.mark.usefixtures("on_a_cpu_again")
@pytest.mark.parametrize(("given", "kept"), [(":16:8", ":16:8"), (":0:0", ":4096:8"), ("", ":4096:8")])
def test_apply_keeps_a_workspace_of_cublas_only_if_it_is_deterministic(monkeypatch, given, kept):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", given)
    apply(Numerics(device="cuda"))
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == kept


@pytest.mark.usefixtures("on_a_cpu_again")
def test_operation_that_torch_refuses_is_told_in_one_line_and_other_errors_pass():
    apply(Numerics(device="cuda"))
    # One of the few that torch refuses on CPUs too.
    line = (
        "model.name=torchvision/odd: torch's put_ gives other bits each time on GPUs; choose another model, or train "
    )
    with pytest.raises(ConfigError, match=f"^{line}on CPUs"), refusals("torchvision/odd"):
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))
    with pytest.raises(RuntimeError, match="size"), refusals("torchvision/odd"):
        torch.zeros(3) + torch.zeros(2)
    apply(Numerics())
    with refusals("torchvision/odd"):
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))


TINY = ModelSettings(
    input_size=16, width=0.05, conv1_kernel=3, conv1_stride=1, conv1_padding=1, fc_units=16, dropout=0.0
)


def test_model_that_is_not_compiled_is_itself():
    model = build(TINY, 10)
    assert compiled(model, Numerics()) is model


def test_every_shape_and_phase_is_compiled_whatever_the_process_compiled_before(monkeypatch):
    """Otherwise what is compiled, and so the bits, would depend on where a stage was resumed."""
    forms, compiler = [], torch.compile

    def noted(graph, inputs):
        forms.append(inputs)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda model, dynamic, mode: compiler(model, dynamic=dynamic, backend=noted))
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    forward = compiled(model, Numerics(compile="fused"))
    for num_images in range(2, 9):
        for frozen in (False, True):
            model[0].requires_grad_(not frozen)
            forward(torch.zeros(num_images, 4))
    assert len(forms) == 7 * 2


@pytest.mark.soak
@pytest.mark.parametrize("mode", COMPILE_MODES[1:])
def test_compiled_model_has_the_same_weights_and_nearly_the_same_logits_and_gradients(mode):
    apply(Numerics())
    model = build(TINY, 10).to(memory_format=torch.channels_last)
    initialise(model, InitSettings(), seed=0)
    forward = compiled(model, Numerics(compile=mode))
    assert [*map(id, forward.parameters())] == [*map(id, model.parameters())]
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 16, 16, generator=generator).contiguous(memory_format=torch.channels_last)
    found = []
    for one in (model, forward):
        model.zero_grad()
        logits = one(images)
        torch.nn.functional.cross_entropy(logits, torch.arange(4)).backward()
        found.append((logits.detach(), [each.grad.clone() for each in model.parameters()]))
    (expected, grads), (ours, new) = found
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    for before, after in zip(grads, new, strict=True):
        torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3 * before.abs().max().item() + 1e-9)


def test_cpu_model_is_the_kernel_s_name(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n")
    assert cpu_model(tmp_path / "cpuinfo") == "Some CPU @ 2 GHz"
    assert cpu_model(tmp_path / "absent")


def test_shared_casts_convert_a_weight_once_and_forget_it_after_the_block():
    layer, ones = torch.nn.Linear(4, 4, bias=False), torch.ones(1, 4)

    def passed():
        with autocast(Numerics(precision="bf16")):
            return layer(ones).detach()

    before = passed()
    with shared_casts():
        assert torch.equal(passed(), before)
        with torch.no_grad():
            layer.weight.add_(1)
        assert torch.equal(passed(), before), "the weight was converted again"
    assert not torch.equal(passed(), before)


def test_memory_is_returned_after_work_that_leaves_a_cycle():
    class Net:
        def __init__(self):
            self.itself, self.weights = self, torch.ones(50_000_000)

    left = []

    def work():
        net = Net()
        left.append(weakref.ref(net))
        return "done"

    def megabytes():
        return psutil.Process().memory_info().rss / 1e6

    apply(Numerics())
    gc.disable()
    try:
        before = megabytes()
        work()
        assert left[-1]() is not None and megabytes() - before > 150, "it was free anyway"
        assert memory_returned(work)() == "done"
        assert [one() for one in left] == [None, None]
        assert megabytes() - before < 50
    finally:
        gc.unfreeze()
        gc.enable()
