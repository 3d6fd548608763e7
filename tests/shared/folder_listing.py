"""What a reader sees in a folder of the project."""

from pathlib import Path


def entries(folder: Path) -> set[str]:
    """Names the modules and folders (with a slash) of `folder`, without `__init__` and what is built there."""
    left_out = {"__pycache__", "__init__.py", "__init__.pyi"}
    names = {path.name + "/" * path.is_dir() for path in folder.iterdir() if path.name not in left_out}
    return {name for name in names if not name.endswith(".so")}
