"""Code of users that builds nets: a file that a configuration names, or an installed package. Loads no torch.

A file's code is each `.py` file in its folder and the folders below, but not what is hidden, in a virtual environment
(`pyvenv.cfg`) or in a run's copy (a folder named by a sha256).
"""

import hashlib
import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import FileFinder, ModuleSpec, SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from workers.errors import CheckFailed, ConfigError
from workers.models.layers import LIBRARIES, MODEL_NAMES
from workers.settings import ModelSettings

_GROUP = "septet.models"
_MOST_FILES, _MOST_BYTES, _MOST_ENTRIES = 1000, 10_000_000, 200_000
_A_COPY = re.compile("[0-9a-f]{64}")
# A file in a checkout of Septet must not import these a second time.
_OUR_OWN = {"conf", "orchestrator", "septet", "workers"}
# One file's modules at a time are in sys.modules; between its uses they wait here, by its path and sha256.
_one_at_a_time = threading.RLock()
_modules: dict[tuple[str, str], dict[str, ModuleType]] = {}


def packages() -> dict[str, EntryPoint]:
    """Returns the entry points by which installed packages offer nets, by name."""
    return {point.name: point for point in entry_points(group=_GROUP)}


def code_of(model: ModelSettings) -> str:
    """Returns the sha256 of the folder of a net's file, or the package that offers it, with its version; else "".

    Raises ConfigError if the file cannot be read, its folder holds too much, or no package offers the net.
    """
    if model.file is not None:
        return _sha256(read_sources(Path(model.file)))
    if model.name in MODEL_NAMES or model.name.startswith(LIBRARIES):
        return ""
    point = packages().get(model.name)
    if point is None or point.dist is None:
        raise ConfigError(f"model.name={model.name}: no installed package offers it in {_GROUP}; install it here too")
    return f"{point.dist.name} {point.dist.version}"


def read_sources(file: Path, sha256: str = "") -> dict[str, bytes]:
    """Returns the code of `file` by its path in the folder; raises CheckFailed if its sha256 is another."""
    found: dict[str, bytes] = {}
    entries = 0
    if not file.is_file() or file.suffix != ".py":
        raise ConfigError(f"model.file={file}: there is no such file of Python")
    for parent, folders, names in os.walk(file.parent):
        folders[:] = [name for name in folders if _may_hold_code(Path(parent, name))]
        entries += len(folders) + len(names)
        for path in (Path(parent, name) for name in names if name.endswith(".py") and not name.startswith(".")):
            try:
                found[path.relative_to(file.parent).as_posix()] = path.read_bytes()
            except OSError as error:
                raise ConfigError(f"model.file={file}: {path} beside it cannot be read ({error.strerror})") from error
        if len(found) > _MOST_FILES or sum(map(len, found.values())) > _MOST_BYTES or entries > _MOST_ENTRIES:
            raise ConfigError(
                f"model.file={file}: its folder holds too much to hash and copy all of it (more than {_MOST_FILES} "
                f"files of code, {_MOST_BYTES // 10**6} MB, or {_MOST_ENTRIES} files); give it a folder of its own"
            )
    if sha256 and (now := _sha256(found)) != sha256:
        raise CheckFailed(f"{file}: its folder's code changed (sha256 {now[:12]}, planned {sha256[:12]}): restore it")
    return found


def _may_hold_code(folder: Path) -> bool:
    is_other = folder.name.startswith((".", "__pycache__")) or _A_COPY.fullmatch(folder.name)
    return not is_other and not (folder / "pyvenv.cfg").exists()


def _sha256(sources: dict[str, bytes]) -> str:
    lines = (f"{path}\0{hashlib.sha256(source).hexdigest()}\n" for path, source in sorted(sources.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@contextmanager
def imported(model: ModelSettings) -> Iterator[ModuleType]:
    """Yields the module of a net's file; in the block, modules beside it come before others of their names.

    Raises:
        CheckFailed: its code is not what was planned.
    """
    file = Path(str(model.file))
    tops = {path.partition("/")[0].removesuffix(".py") for path in read_sources(file, model.code)}
    names, key = tops - _OUR_OWN | {file.stem}, (str(file), model.code)

    def taken_out() -> dict[str, ModuleType]:
        return {name: sys.modules.pop(name) for name in [*sys.modules] if name.partition(".")[0] in names}

    finder = _Finder(file.parent, names)
    with _one_at_a_time:
        others = taken_out()
        sys.modules.update(_modules.get(key, {}))
        sys.meta_path.insert(0, finder)
        try:
            yield __import__(file.stem)
        finally:
            sys.meta_path.remove(finder)
            _modules[key] = taken_out()
            sys.modules.update(others)


class _Sources(SourceFileLoader):
    """Reads sources alone: without their times, Python neither writes bytecode nor reads any, which has no sha256."""

    def path_stats(self, path: Any) -> NoReturn:
        raise OSError(path)


class _Finder(MetaPathFinder):
    def __init__(self, folder: Path, names: set[str]) -> None:
        self._folder, self._names = folder, names

    def find_spec(self, fullname: str, path: Sequence[str] | None, _target: Any = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in self._names:
            return None
        return FileFinder(path[0] if path else str(self._folder), (_Sources, [".py"])).find_spec(fullname)
