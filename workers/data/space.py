"""Whether a disk has room for what is about to be written: told before hours of work, not after."""

import os
from pathlib import Path

from workers.errors import StorageError

# Labels, sizes, sha256 and name of a row, and its share of a record.
_ROW_BYTES = 150
# Photographs at quality 90 and 256 pixels took 0.46 bytes a pixel here; a better quality takes up to three times that.
_JPEG_BYTES_A_PIXEL = 0.5
_FINE_JPEG_BYTES_A_PIXEL = 1.5
_FINE_QUALITY = 90


def raw_bytes(num_images: int, size: int) -> int:
    """Bytes of a raw store of square images of `size` pixels."""
    return num_images * (3 * size * size + _ROW_BYTES)


def jpeg_bytes(num_images: int, size: int, quality: int) -> int:
    """About the bytes of a JPEG store, rather too many; how small an image becomes depends on what it shows."""
    a_pixel = _JPEG_BYTES_A_PIXEL if quality <= _FINE_QUALITY else _FINE_JPEG_BYTES_A_PIXEL
    return num_images * round(a_pixel * size * size + _ROW_BYTES)


def require_space(folder: Path, needed: int, what: str, change: str) -> None:
    """Raises StorageError where the disk of `folder` has fewer than `needed` bytes free.

    `what` says what needs them, `change` what to change besides freeing space.
    """
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if needed > free:
        raise StorageError(
            f"{folder}: {what} needs {readable_bytes(needed)} ({needed:,} bytes), {readable_bytes(free)} "
            f"({free:,} bytes) are free: free space, or {change}"
        )


def readable_bytes(count: int) -> str:
    """`252 GB`, `1.3 GB`, `12 MB`, `950 KB`, by powers of ten as disks are sold."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"
