"""Reads the memory limit of this process's control group (cgroup v1 or v2), and counts the processes killed for it."""

import re
from collections.abc import Iterator
from pathlib import Path

import psutil

_GROUPS, _MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_LIMITS = ("memory.max", "memory.limit_in_bytes")
_COUNTS = ("memory.events", "memory.oom_control")


def memory_limit(groups: Path = _GROUPS, mount: Path = _MOUNT) -> float:
    """Returns the machine's memory in bytes, or the limit of this process's group if that is lower."""
    limits = [float(text) for text in _read(_LIMITS, groups, mount) if text.strip() != "max"]
    return min([float(psutil.virtual_memory().total), *limits])


def oom_kills(groups: Path = _GROUPS, mount: Path = _MOUNT) -> int:
    """Returns how many processes of this group the kernel has killed because memory ran out."""
    found = (re.search(r"^oom_kill (\d+)", text, re.MULTILINE) for text in _read(_COUNTS, groups, mount))
    # The group's own: those around it count others' too.
    return next((int(one[1]) for one in found if one), 0)


def _read(names: tuple[str, ...], groups: Path, mount: Path) -> Iterator[str]:
    """Yields the files of these names in the process's group and those around it."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, own = line.split(":", 2)
        if controllers in ("", "memory"):
            # In a container the path may be the host's; then the group itself is mounted at the root.
            inner = Path(own.lstrip("/"))
            for folder in (inner, *inner.parents):
                for name in names:
                    file = mount / controllers / folder / name
                    if file.is_file():
                        yield file.read_text()
