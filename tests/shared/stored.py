"""Reads one named checkpoint whole, as the newest one is read at a resume."""

from pathlib import Path

from workers.storage import checkpoint


def read_checkpoint(folder: Path) -> checkpoint.Contents:
    """Verifies and reads a checkpoint; raises StorageError where it is missing or corrupt."""
    with checkpoint._invalid_is_an_error(folder):
        return checkpoint._read(folder)
