"""Lists the checks, in the order in which they run: what says most in the least time comes first."""

from functools import partial

from benchmarks.gpu_check import bits, devices, fractions, kernels, rates, share
from benchmarks.gpu_check.checks import Check

CHECKS = (
    Check("devices", 40, devices.describe),
    Check("lrn", 60, kernels.lrn),
    Check("net", 60, kernels.net),
    Check("input", 60, kernels.net_input),
    Check("bits-fp32", 90, partial(bits.resumed, "fp32")),
    Check("bits-bf16", 90, partial(bits.resumed, "bf16")),
    Check("bits-fp16", 90, partial(bits.resumed, "fp16")),
    Check("halves", 90, bits.halves),
    Check("rates", 240, rates.beside_plain_torch),
    Check("roofline", 60, share.of_roofline),
    Check("fractions", 150, fractions.launch),
)
