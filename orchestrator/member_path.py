"""Where members look for Python modules: where the driver does, and nowhere else."""

import sys
from pathlib import Path
from typing import Any


class _NoMorePaths(list[str]):
    """Takes nothing in: Ray would put the working directory before all else that workers import."""

    def extend(self, _: Any) -> None:
        pass


def keep_own_path(job_config: Any) -> Any:
    """Makes of Ray's JobConfig one under which a `numpy.py` that lies in the working directory runs in no member.

    Where the driver itself imports from there (a checkout that is not installed), so do they.
    """
    if not {"", str(Path.cwd())} & set(sys.path):
        job_config._py_driver_sys_path = _NoMorePaths()
    return job_config
