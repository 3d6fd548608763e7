"""Whether a disk has room for what is about to be written: told before hours of work, not after."""

import os
from pathlib import Path

from workers.errors import StorageError
from workers.settings import StoreFormat, stored_image_bytes

# Labels, sizes, sha256 and name of a row, its share of a record, and what is the same for all JPEGs.
_ROW_BYTES = {StoreFormat.raw: 150, StoreFormat.jpeg: 800}


def store_bytes(num_images: int, size: int, store_format: StoreFormat, jpeg_quality: int) -> int:
    """Bytes of a store of so many images of `size` pixels; as JPEG about, since it depends on what they show."""
    return num_images * (stored_image_bytes(size, store_format, jpeg_quality) + _ROW_BYTES[store_format])


def require_space(folder: Path, needed: int, what: str, change: str) -> None:
    """Raises StorageError where the disk of `folder` has fewer than `needed` bytes free.

    `what` says what needs them, `change` what to change besides freeing space.
    """
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if needed > free:
        raise StorageError(f"{folder}: {what} needs {needed:,} bytes, {free:,} bytes are free: free space, or {change}")
