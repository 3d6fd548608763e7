"""One part of a torchvision set, constructed as torchvision does it; whatever goes wrong is told in one line."""

import http.client
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from workers.data.torchvision_catalogue import Kept, KnownSet
from workers.errors import DataError
from workers.settings.training import DatasetSettings

Part = TypeVar("Part")

# What torchvision says of absent files and of a network that is not there, and what readers say of damaged files: of
# most sets that are unpacked it checks no sums.
_ABSENT_OR_DAMAGED = (
    RuntimeError,
    OSError,
    ValueError,
    TypeError,
    AssertionError,
    AttributeError,
    LookupError,
    EOFError,
    http.client.HTTPException,
    pickle.UnpicklingError,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_part(settings: DatasetSettings, known: KnownSet, split: str, take: Callable[[KnownSet, Any], Part]) -> Part:
    """What `take` makes of torchvision's object for a split; downloaded first where it is absent and that is allowed.

    Raises:
        DataError: its files are absent, damaged or cannot be had.
    """
    from scipy.io.matlab import MatReadError
    from torchvision import datasets

    assert settings.root is not None
    root = Path(settings.root).expanduser()
    arguments: dict[str, Any] = dict(known.parts[split])
    if known.kept is Kept.files:
        # Asked for an image, the set then gives its path: nothing is decoded.
        arguments["loader"] = str

    absent_or_damaged = (*_ABSENT_OR_DAMAGED, MatReadError)

    def read(*, download: bool) -> Part:
        return take(known, getattr(datasets, known.factory)(root, download=download, **arguments))

    try:
        try:
            return read(download=False)
        except absent_or_damaged:
            # Asked for a download, some sets refuse or fetch anew what is there: so only what is not.
            if not settings.download:
                raise
        return read(download=True)
    except absent_or_damaged as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        what = "cannot be downloaded" if settings.download else "is not there, or damaged"
        raise DataError(
            f"{root}: {settings.name} {what} ({reason}); put its files there, or allow datasets.<name>.download"
        ) from error
