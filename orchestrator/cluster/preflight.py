"""Decides whether a node of a cluster can run members, from what a look at it found; no Ray.

`inspect` runs on every node and on the driver's machine, and `misfit` compares the two. An actor decides alike about
itself before each attempt (`misfit_here`), since a node may be used before anybody has looked at it.
"""

import platform
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from orchestrator.cluster.interface import Unfit
from orchestrator.cluster.memory import memory_limit
from orchestrator.text import size
from workers.data.store import MANIFEST
from workers.errors import ConfigError, StorageError, some
from workers.numerics import Capabilities, capabilities, code_digest, cpu_model, missing
from workers.protocol import Numerics, PredictSpec, StageSpec
from workers.storage import sha256_of, write_text

_INSTALL = "install what this machine has (the same Septet, constraints.txt) there"
SHARE = "mount the shared storage there, at the same path (NFS, EFS, Filestore, CephFS, JuiceFS or Lustre)"
# The driver's list of GPUs, which needs neither torch nor Ray.
GPUS = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class Needs:
    """What a launch needs of a node.

    Attributes:
        code: `workers.numerics.code_digest` of the launch.
        numerics: None if only images are packed.
        folder: each node writes a file in it, which the driver reads; None for a plan. `key` is its name for a user.
        stores: folders of prepared images.
        member_bytes: the memory of the largest member, as estimated.
        typed: the precision was asked for, and not chosen for the nodes.
    """

    code: str
    folder: Path | None = None
    key: str = "run_dir"
    numerics: Numerics | None = None
    stores: tuple[Path, ...] = ()
    member_bytes: float = 0.0
    typed: bool = True

    @property
    def room(self) -> tuple[int, float]:
        """CPUs and GPUs of a process that predicts, or packs images."""
        return (self.numerics.threads, float(self.numerics.device != "cpu")) if self.numerics else (1, 0.0)


def inspect(probe: Path | None, text: str, stores: Collection[Path]) -> dict[str, Any]:
    """Looks at this machine; returns plain values, since another release may run here. Writes `text` to `probe`."""
    gpus = "".join(path.read_text(errors="replace") for path in sorted(GPUS.glob("*/information")))
    found = capabilities()
    return {
        "code": code_digest(),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "torch": metadata.version("torch"),
        "bf16": found.bf16,
        "compiled_kernels": found.compiled_kernels,
        "processors": ", ".join([cpu_model(), *re.findall(r"^Model:\s*(.*)", gpus, re.MULTILINE)]),
        "free_bytes": min(psutil.virtual_memory().available, memory_limit()),
        "probe": _written(probe, text) if probe else "",
        "stores": {str(store): _fingerprint(store) for store in stores},
    }


def _written(probe: Path, text: str) -> str:
    """Returns what is wrong with the file's folder; "" if the file is written."""
    try:
        # The folder is not made: on this machine's own disk nobody would look for it.
        if not probe.parent.is_dir():
            return f"is not there: {SHARE}"
        # Of an earlier look at this node, whose driver did not see it, or was killed.
        for earlier in probe.parent.glob(f"{probe.stem}.*"):
            earlier.unlink(missing_ok=True)
        write_text(probe, text)
    except (OSError, StorageError) as error:
        why = getattr(error.__cause__ or error, "strerror", None) or error
        return f"cannot be written ({why}): let this user write there, and free some space"
    return ""


def _fingerprint(store: Path) -> str:
    """Returns what identifies prepared images without reading them; "" if none are there."""
    try:
        return sha256_of(store / MANIFEST)
    except OSError:
        return ""


def misfit(there: Mapping[str, Any], here: Mapping[str, Any], needs: Needs) -> Unfit | None:
    """Returns why a node cannot do what a launch needs, or None; `there` and `here` are what `inspect` found."""
    for name in ("python", "torch"):
        if there[name] != here[name]:
            return Unfit(f"it has {name} {there[name]}, and this machine {here[name]}: {_INSTALL}")
    if there["code"] != needs.code:
        return _other_code(there["code"], needs.code)
    if needs.numerics:
        lacked, own = (
            missing(needs.numerics, Capabilities(one["bf16"], one["compiled_kernels"])) for one in (there, here)
        )
        # A precision that this machine's CPU emulates too may be asked for; without its kernels no stage can run.
        if lacked and (lacked != own or not needs.typed or "kernel" in lacked):
            return Unfit(f"it lacks {lacked}{'' if 'kernel' in lacked else ': leave it out, or set precision=fp32'}")
    place = f"{needs.key}={needs.folder}"
    if there["probe"]:
        return Unfit(f"{place} {there['probe']}", storage=True)
    if not there["seen"]:
        return Unfit(f"what it writes in {place} is not seen here: {SHARE}", storage=True)
    for store, wanted in here["stores"].items():
        if there["stores"].get(store) != wanted:
            what = "other prepared images are" if there["stores"].get(store) else "no prepared images are"
            return Unfit(f"{what} at {store} (datasets.store): {SHARE}", storage=True)
    if there["free_bytes"] < needs.member_bytes:
        free, wanted = size(there["free_bytes"]), size(needs.member_bytes)
        return Unfit(
            f"{free} of memory are free, and a member takes about {wanted}: end what else runs there, set "
            "optimizer.micro_batch, or lower optimizer.batch_size"
        )
    return None


def misfit_here(spec: StageSpec | PredictSpec, code: str) -> Unfit | None:
    """Returns why this process, with `code`, must not run `spec`, or None. Imports nothing that trains."""
    if not spec.code:
        return None
    if code != spec.code:
        return _other_code(code, spec.code)
    # A precision that the CPU emulates may have been asked for; without its kernels a stage cannot run.
    if lacked := missing(replace(spec.numerics, precision="fp32"), capabilities()):
        return Unfit(f"it lacks {lacked}")
    return _absent("run_dir", spec.stage_dir.parents[2]) or _absent("datasets.store", spec.store)


def unfit_to_pack(folder: Path, code: str) -> Unfit | None:
    """Returns why this process must not pack images, by `code`, into `folder`; on its own disk they would be lost."""
    if (own := code_digest()) != code:
        return _other_code(own, code)
    return _absent("datasets.store", folder)


def _absent(key: str, folder: Path) -> Unfit | None:
    return None if folder.is_dir() else Unfit(f"{key}={folder} is not there: {SHARE}", storage=True)


def _other_code(there: str, launched: str) -> Unfit:
    return Unfit(
        f"its code of workers/ (digest {there[:12]}) is not the launch's ({launched[:12]}): {_INSTALL}, or, if the "
        "code has changed here since the launch began, run the same command again"
    )


def remark(there: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Returns what may change bits on one of two nodes that fit; "" for nothing. The driver's machine may not train."""
    found, before = there["processors"], other["processors"]
    return "" if found == before else f"{found}, and on others {before}: bits may depend on where a member trains"


def none_left(left_out: Mapping[str, Unfit]) -> ConfigError | StorageError:
    """Returns the error for a cluster of which every node, by its name, is left out."""
    groups: dict[str, list[str]] = {}
    for node, unfit in left_out.items():
        groups.setdefault(unfit.reason, []).append(node)
    why = "; ".join(f"{some(sorted(nodes))}: {reason}" for reason, nodes in groups.items())
    kind = StorageError if all(one.storage for one in left_out.values()) else ConfigError
    return kind(f"no node of the cluster can be used: {why}")
