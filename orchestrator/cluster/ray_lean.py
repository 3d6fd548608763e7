"""Starts the Ray of one launch without what only a lasting cluster needs. Importing this loads Ray."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray._private import node, utils

from orchestrator.cluster import process_guard


class _LeanNode(node.Node):
    """A head without dashboard, autoscaler and reader of logs; `ray.init` would wait for the dashboard."""

    def _skip(self, **_: Any) -> None:
        self._webui_url = ""

    start_api_server = start_monitor = start_log_monitor = _skip  # type: ignore[assignment]

    def kill_all_processes(self, *_: Any, **__: Any) -> None:
        """Kills all at once: Ray asks one after the other to end, and waits up to 1 s for each."""
        process_guard.end(process_guard.marked_descendants(os.getpid(), os.environ[process_guard.MARK]))


@contextmanager
def lean() -> Iterator[None]:
    """Makes `ray.init` start a lean head inside the block; its agent serves no pages either."""
    whole: Any = node.Node, utils.get_dashboard_dependency_error
    absent = ImportError("nobody looks at pages")
    node.Node, utils.get_dashboard_dependency_error = _LeanNode, lambda: absent  # type: ignore[misc]
    try:
        yield
    finally:
        node.Node, utils.get_dashboard_dependency_error = whole  # type: ignore[misc]
