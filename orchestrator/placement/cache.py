"""Measured rates, kept below the store: the same machine makes the same choice again, and pays for it once.

A file a (machine, code, kind of net). What is damaged or of another shape counts as absent: it is measured anew.
"""

import hashlib
import json
import logging
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.placement.choice import Candidate, Figure, Kind
from workers.errors import StorageError
from workers.storage import parse_json, write_json

_FOLDER = "placement"
_CPU_INFO = Path("/proc/cpuinfo")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Key:
    """All that a measurement's verdict depends on.

    `code` is the digest of `workers` and torch's version, `asked` names the candidates that were compared.
    """

    cpu: str
    num_cpus: int
    code: str
    kernels: str
    kind: Kind
    asked: tuple[str, ...]

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def cpu_model(cpu_info: Path = _CPU_INFO) -> str:
    """The CPU's type, as the kernel names it."""
    try:
        lines = cpu_info.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def read_figures(store: Path, key: Key) -> tuple[Figure, ...]:
    """What is kept for `key` below `store`; nothing where the file is absent or damaged."""
    path = _path(store, key)
    try:
        return tuple(
            Figure(Candidate(**entry["candidate"]), _rate(entry["images_per_second"]))
            for entry in parse_json(path.read_text())["figures"]
        )
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("%s: not readable (%s); measured anew", path, error)
        return ()


def write_figures(store: Path, key: Key, figures: Sequence[Figure]) -> None:
    """Keeps `figures` for `key`; a store that cannot be written to only means that they are measured again."""
    path = _path(store, key)
    try:
        write_json(path, {"about": asdict(key), "figures": [asdict(figure) for figure in figures]})
    except (StorageError, OSError) as error:
        _log.warning("%s: not kept (%s)", path, error)


def _path(store: Path, key: Key) -> Path:
    return store / _FOLDER / f"{key.digest[:32]}.json"


def _rate(value: object) -> float:
    if isinstance(value, int | float) and math.isfinite(value) and value > 0:
        return float(value)
    raise ValueError(f"{value!r} is no rate")
