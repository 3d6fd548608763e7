"""Peak figures of common GPUs, from their vendor's data sheets: dense, without sparsity, at boost clock."""

import re
from dataclasses import dataclass, replace

SOURCE = "vendor's data sheet, dense, without sparsity"


@dataclass(frozen=True)
class Gpu:
    """Peaks of one GPU.

    Attributes:
        bf16: FLOP/s of matrix products in bfloat16; that of fp32 where the GPU has no such units.
        tf32: the same of float32 products with TF32 allowed.
        fp32: the same without TF32.
        bandwidth: bytes per second of its memory.
        link: bytes per second from pinned host memory: about 85 % of the PCIe link's own rate.
    """

    name: str
    bf16: float
    tf32: float
    fp32: float
    bandwidth: float
    link: float
    source: str = SOURCE

    def peak(self, dtype: str, *, tf32: bool = False) -> float:
        """Returns FLOP/s for `dtype`, a torch dtype's name."""
        if dtype in ("bfloat16", "float16"):
            return self.bf16
        return self.tf32 if tf32 else self.fp32


_T, _G = 1e12, 1e9
_PCIE3, _PCIE4, _PCIE5 = 13 * _G, 26 * _G, 53 * _G

H100_SXM = Gpu("H100 SXM", 989.4 * _T, 494.7 * _T, 66.9 * _T, 3350 * _G, _PCIE5)

# Patterns that the whole of torch's device name must match: a Ti, a laptop's GPU or a slice has other figures.
_KNOWN: tuple[tuple[str, Gpu], ...] = (
    (r"NVIDIA H200", replace(H100_SXM, name="H200 SXM", bandwidth=4800 * _G)),
    (r"NVIDIA H100 80GB HBM3", H100_SXM),
    (r"NVIDIA H100 PCIe", Gpu("H100 PCIe", 756.5 * _T, 378 * _T, 51.2 * _T, 2000 * _G, _PCIE5)),
    (r"NVIDIA A100-SXM4-80GB", Gpu("A100 SXM 80 GB", 312 * _T, 156 * _T, 19.5 * _T, 2039 * _G, _PCIE4)),
    (r"NVIDIA A100-SXM4-40GB", Gpu("A100 SXM 40 GB", 312 * _T, 156 * _T, 19.5 * _T, 1555 * _G, _PCIE4)),
    (r"NVIDIA A100 80GB PCIe", Gpu("A100 PCIe 80 GB", 312 * _T, 156 * _T, 19.5 * _T, 1935 * _G, _PCIE4)),
    (r"NVIDIA A100-PCIE-40GB", Gpu("A100 PCIe 40 GB", 312 * _T, 156 * _T, 19.5 * _T, 1555 * _G, _PCIE4)),
    (r"NVIDIA L4", Gpu("L4", 121 * _T, 60 * _T, 30.3 * _T, 300 * _G, _PCIE4 / 2)),
    (r"(NVIDIA |Tesla )?T4|Tesla T4", Gpu("T4", 8.1 * _T, 8.1 * _T, 8.1 * _T, 320 * _G, _PCIE3)),
    (r"Tesla V100-SXM2-(16|32)GB", Gpu("V100 SXM2", 15.7 * _T, 15.7 * _T, 15.7 * _T, 900 * _G, _PCIE3)),
    (r"Tesla V100-PCIE-(16|32)GB", Gpu("V100 PCIe", 14 * _T, 14 * _T, 14 * _T, 900 * _G, _PCIE3)),
    (r"NVIDIA GeForce RTX 4090", Gpu("RTX 4090", 165.2 * _T, 82.6 * _T, 82.6 * _T, 1008 * _G, _PCIE4)),
    (r"NVIDIA GeForce RTX 3090", Gpu("RTX 3090", 71 * _T, 35.6 * _T, 35.6 * _T, 936 * _G, _PCIE4)),
)


def known(device_name: str) -> Gpu | None:
    """Returns the figures of the GPU that torch names so; None if the table does not have it."""
    return next((gpu for pattern, gpu in _KNOWN if re.fullmatch(pattern, device_name)), None)
