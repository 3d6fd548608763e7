"""The public face of Septet under its own name: `import septet` gives what `import orchestrator` does.

Names load on first use. The console script starts here: if a package of the user's hides one of Septet's, this module
is the only one that is certainly ours.
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from orchestrator import *  # noqa: F403

_USAGE_ERROR = 2


def _hidden_package() -> str:
    """Returns a line about a module that hides one of Septet's packages; empty if none does."""
    here = Path(__file__).resolve().parent
    for name in ("orchestrator", "workers", "conf"):
        spec = find_spec(name)
        places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
        place = next(filter(None, places), None)
        if place is not None and Path(place).resolve() != here / name / "__init__.py":
            return (
                f"{place}: hides Septet's own package {name}; rename it, or start from another folder and without it "
                "on PYTHONPATH"
            )
    return ""


_problem = _hidden_package()
if not _problem:
    import orchestrator

    __all__ = list(orchestrator.__all__)


def __getattr__(name: str) -> Any:
    if _problem and not name.startswith("__"):
        raise ImportError(_problem)
    if name == "__path__" or _problem:
        raise AttributeError(name)
    return getattr(orchestrator, name)


def __dir__() -> list[str]:
    return [] if _problem else __all__


def command() -> NoReturn:
    """Runs `septet` as a process, and ends it with the exit code."""
    if _problem:
        sys.stderr.write(f"septet: {_problem}\n")
        sys.exit(_USAGE_ERROR)
    from orchestrator.cli import command as run

    run()


if __name__ == "__main__":
    command()
