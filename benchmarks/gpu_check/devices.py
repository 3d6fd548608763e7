"""Describes the machine's devices and versions, and makes each device multiply."""

import platform
import shutil
import subprocess
from typing import Any

import torch

from benchmarks.gpu_check.checks import Finding, Target


def describe(target: Target) -> Finding:
    """Lists devices and versions; fails if a device multiplies wrongly."""
    figures: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if target.device == "cuda" else None,
        "driver": _driver() if target.device == "cuda" else None,
        "devices": [],
    }
    versions = ", ".join(f"{name} {figures[name]}" for name in ("torch", "cuda", "cudnn", "driver") if figures[name])
    lines, wrong = [versions], []
    for device in _devices(target):
        found = _one(device)
        figures["devices"].append(found)
        lines.append(_line(found))
        if not found["multiplies"]:
            wrong.append(f"{device} multiplies wrongly")
    if target.device == "cuda" and len(figures["devices"]) > 1:
        pairs = [(one, other) for one in range(torch.cuda.device_count()) for other in range(torch.cuda.device_count())]
        figures["peer_access"] = {
            f"{one}-{other}": torch.cuda.can_device_access_peer(one, other) for one, other in pairs if one != other
        }
        able = sum(figures["peer_access"].values())
        lines.append(f"peer access (P2P): {able} of {len(figures['peer_access'])} pairs")
    return Finding(not wrong, figures, [*wrong, *lines])


def _devices(target: Target) -> list[str]:
    if target.device == "cpu":
        return ["cpu"]
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]


def _one(device: str) -> dict[str, Any]:
    found: dict[str, Any] = {"device": device, "multiplies": multiplies(device)}
    if device == "cpu":
        return {**found, "name": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    about = torch.cuda.get_device_properties(device)
    return {
        **found,
        "name": about.name,
        "memory_bytes": about.total_memory,
        "capability": f"{about.major}.{about.minor}",
        "bf16": bf16(device),
    }


def bf16(device: str) -> bool:
    """Returns whether the device multiplies bfloat16 in hardware; before Ampere torch emulates it."""
    return device == "cpu" or torch.cuda.get_device_capability(device) >= (8, 0)


def multiplies(device: str) -> bool:
    """Returns whether a product of known matrices is right on the device."""
    left = torch.arange(64.0, device=device).view(8, 8)
    product = left @ torch.eye(8, device=device).mul_(3)
    return bool((product.cpu() == torch.arange(64.0).view(8, 8) * 3).all())


def _line(found: dict[str, Any]) -> str:
    if found["device"] == "cpu":
        return f"cpu: {found['name']}, {found['threads']} threads"
    gb, has = found["memory_bytes"] / 1e9, "bf16" if found["bf16"] else "no bf16"
    return f"{found['device']}: {found['name']}, {gb:.0f} GB, compute capability {found['capability']}, {has}"


def _driver() -> str | None:
    """Returns the driver's version, which only its own program tells."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    words = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    return next(iter(answer.stdout.split()), None)
