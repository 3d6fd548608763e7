"""What changes bits: threads, precision, device, and the code itself."""

import hashlib
from contextlib import AbstractContextManager
from importlib import metadata
from pathlib import Path
from typing import Any

from workers.protocol import Numerics


def apply(numerics: Numerics) -> None:
    """Sets this process up for `numerics`; must come before any other use of torch.

    A preloaded torch ignores OMP_NUM_THREADS, hence the explicit call. Reduced-precision products on GPUs stay off, so
    that fp32 means fp32.
    """
    import torch

    torch.set_num_threads(numerics.threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    if numerics.device.startswith("cuda"):
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True


def autocast(numerics: Numerics) -> AbstractContextManager[Any]:
    """The context in which a forward pass runs."""
    import torch

    device_type = numerics.device.partition(":")[0]
    return torch.autocast(device_type, dtype=torch.bfloat16, enabled=numerics.precision == "bf16")


def code_digest() -> str:
    """sha256 over the sources of `workers` and torch's version: a change here may change a run's bits."""
    digest = hashlib.sha256(metadata.version("torch").encode())
    package = Path(__file__).parent
    for source in sorted(package.rglob("*.py")):
        digest.update(source.relative_to(package).as_posix().encode())
        digest.update(source.read_bytes())
    return digest.hexdigest()
