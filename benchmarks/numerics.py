"""Chooses the fastest numerics that a new run can get on this machine."""

from workers.numerics import capabilities
from workers.protocol import Numerics


def fastest(threads: int) -> Numerics:
    """Returns bf16 and the compiled kernels where they exist, else fp32 and torch's operators."""
    found = capabilities()
    return Numerics(
        threads=threads,
        precision="bf16" if found.bf16 else "fp32",
        kernels="compiled" if found.compiled_kernels else "torch",
        convolutions="by_shape",
    )
