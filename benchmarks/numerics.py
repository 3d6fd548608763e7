"""The numerics that a new run gets on this machine at its fastest."""

from workers.numerics import capabilities
from workers.protocol import Numerics


def fastest(threads: int) -> Numerics:
    """bf16 and the compiled kernels where there are any."""
    found = capabilities()
    return Numerics(
        threads=threads,
        precision="bf16" if found.bf16 else "fp32",
        kernels="compiled" if found.compiled_kernels else "torch",
    )
