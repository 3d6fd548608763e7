"""The public face of Septet under its own name: `import septet` gives what `import orchestrator` does.

Names load on first use.
"""

from typing import TYPE_CHECKING, Any

import orchestrator

if TYPE_CHECKING:
    from orchestrator import *  # noqa: F403

__all__ = list(orchestrator.__all__)


def __getattr__(name: str) -> Any:
    return getattr(orchestrator, name)


def __dir__() -> list[str]:
    return __all__
