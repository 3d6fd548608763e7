"""The versions that a run records: what was installed when it began."""

import platform
from importlib import metadata

_RECORDED = ("septet", "torch", "numpy", "pillow", "ray", "mlflow", "safetensors")


def versions() -> dict[str, str]:
    """Versions of Python, of the distributions that matter, and the processor, by name."""
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for name in _RECORDED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            # A checkout on PYTHONPATH has no distribution of its own.
            found[name] = "not installed"
    return found
