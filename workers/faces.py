"""Makes a package's face lazy: the names in the stub beside its `__init__` load on first use.

A regular expression reads the stub. `lazy_loader.attach_stub` would parse it with `ast`, which sometimes fails in
CPython 3.11 when two threads import at once ("AST constructor recursion depth mismatch").
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lazy_loader

Face = tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]
_FROM = re.compile(r"^from \.(\w+) import (?:\(([^)]*)\)|(.+))$", re.MULTILINE)


def face(package: str, init_file: str) -> Face:
    """Returns `__getattr__`, `__dir__` and `__all__` of `package`, whose `__init__` is `init_file`."""
    stub = Path(init_file).with_suffix(".pyi").read_text(encoding="utf-8")
    names = {module: re.findall(r"(\w+) as \w+", several or one) for module, several, one in _FROM.findall(stub)}
    attached: Face = lazy_loader.attach(package, submod_attrs=names)
    return attached
