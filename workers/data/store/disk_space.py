"""Checks before hours of work that a disk has enough free space."""

import os
from pathlib import Path

from workers.errors import StorageError
from workers.settings import Keep, StoreFormat, stored_image_bytes
from workers.storage import storage_errors

# Labels, sizes, sha256 and name of a row, its part of a record, and the headers of a JPEG.
_ROW_BYTES = {StoreFormat.raw: 150, StoreFormat.jpeg: 800}


def store_bytes(
    num_images: int, size: int, store_format: StoreFormat, jpeg_quality: int, keep: Keep = Keep.centre
) -> int:
    """Returns the bytes of a store of `num_images` images of `size` pixels; an estimate for JPEG and whole images."""
    return num_images * (stored_image_bytes(size, store_format, jpeg_quality, keep) + _ROW_BYTES[store_format])


def require_space(folder: Path, needed: int, what: str, change: str) -> None:
    """Raises StorageError if the disk of `folder` has fewer than `needed` bytes free.

    `what` names the data that needs them, `change` an alternative to freeing space.
    """
    with storage_errors(folder):
        status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if needed > free:
        raise StorageError(f"{folder}: {what} needs {needed:,} bytes, {free:,} bytes are free: free space, or {change}")
