"""What a machine can do that changes bits, and what of a run's numerics it lacks."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from workers.kernels import lrn
from workers.numerics import Capabilities, capabilities, missing, usable
from workers.protocol import Numerics

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
