"""Nodes of a laboratory that do not fit, each in one way: other code, another Python, other folders, no memory."""

import os
import shutil
from pathlib import Path

from machines import Kind
from oracle import CHECKOUT, child_environment


def hidden(folder: Path) -> Kind:
    return Kind(steps=(f"mount -t tmpfs none {folder}",))


def read_only(folder: Path) -> Kind:
    return Kind(steps=(f"mount --bind {folder} {folder}", f"mount -o remount,bind,ro {folder}"))


def full(folder: Path, *within: str) -> Kind:
    """In place of `folder` a disk without a free block, with the folders `within`."""
    made = " ".join(str(folder / name) for name in within)
    fill = f"cat /dev/zero >{folder}/ballast 2>/dev/null || true"
    return Kind(steps=(f"mount -t tmpfs -o size=64k none {folder}", f"mkdir {made}", fill))


def little_memory(folder: Path) -> Kind:
    """A kernel that counts 300 MB."""
    folder.mkdir()
    (folder / "meminfo").write_text("MemTotal: 300000 kB\nMemFree: 290000 kB\nMemAvailable: 290000 kB\n")
    return Kind(steps=(f"mount --bind {folder / 'meminfo'} /proc/meminfo",))


def other_store(store: Path, folder: Path) -> Kind:
    """Other prepared images at the same path."""
    shutil.copytree(store, folder)
    for manifest in folder.rglob("manifest.json"):
        manifest.write_text(f"{manifest.read_text()}\n")
    return Kind(steps=(f"mount --bind {folder} {store}",))


def copied_code(folder: Path, *, kernels: bool = True, changed: bool = False) -> Kind:
    """A copy of the packages, without the compiled kernels, or with a line more in a file that trains."""
    left_out = shutil.ignore_patterns("__pycache__", *(() if kernels else ("*.so",)))
    for name in ("orchestrator", "workers"):
        shutil.copytree(CHECKOUT / name, folder / name, ignore=left_out)
    if changed:
        with (folder / "workers" / "training" / "gradients.py").open("a") as file:
            file.write("# another line\n")
    return Kind(folder)


def no_code(folder: Path) -> Kind:
    """An import path as if nothing were installed."""
    folder.mkdir()
    (folder / "orchestrator.py").write_text("raise ModuleNotFoundError(\"No module named 'orchestrator'\")\n")
    return Kind(folder)


def other_python(folder: Path) -> Kind:
    """A Python that says it is 3.99. Ray lets no other one join, unless it is told to overlook it."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import platform\nplatform.python_version_tuple = lambda: '3 99 0'.split()\n"
    )
    return Kind(environment={"PYTHONPATH": os.pathsep.join((str(folder), child_environment()["PYTHONPATH"]))})
