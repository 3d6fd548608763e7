"""ILSVRC-2012's development kit: the WNID of each ILSVRC2012_ID, and the ids of the validation images.

Only `data/meta.mat` and `data/ILSVRC2012_validation_ground_truth.txt` are read, from the kit's folder or its archive.
"""

import gzip
import io
import struct
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from workers.data.decoding import BadImage
from workers.data.sources.tree import Tree, one_line
from workers.errors import DataError

KIT = "ILSVRC2012_devkit_t12"
META = "data/meta.mat"
GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
# Each is under 3 MB as published. A far larger file is not the kit, or an attempt to fill the memory.
_LARGEST_FILE = 1 << 25
_LARGEST_META = 1 << 27
_LARGEST_UNPACKED = 1 << 27
_MOST_SYNSETS = 100_000
# Errors that scipy raises on damaged files, or files that are not MATLAB's.
_UNREADABLE = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, MemoryError, RuntimeError),
    *(OSError, EOFError, struct.error, zlib.error),
)
_MAT_HEADER, _TAG, _COMPRESSED = 128, 8, 15


@dataclass(frozen=True)
class DevelopmentKit:
    """The classes and validation labels in the kit.

    Attributes:
        wnids: of the low-level synsets; the one at index i has ILSVRC2012_ID i + 1.
        val_ids: ILSVRC2012_ID of each validation image, in the order of their file names.
        where: the kit's folder or archive, for messages.
    """

    wnids: tuple[str, ...]
    val_ids: tuple[int, ...]
    where: str


def read_development_kit(tree: Tree) -> DevelopmentKit:
    """Reads `ILSVRC2012_devkit_t12.tar.gz`, or the folder `ILSVRC2012_devkit_t12`, or its data/; extracts nothing.

    Raises:
        DataError: the kit or one of its files is missing or damaged, or its ids are not 1…n.
    """
    archive = f"{KIT}.tar.gz"
    if tree.find(archive) is not None:
        where = tree.describe(archive)
        files = _unpack(_read(tree, archive), where)
    elif tree.find(KIT) is not None or tree.find(META) is not None:
        folder = f"{KIT}/" if tree.find(KIT) is not None else ""
        where = tree.describe(folder.rstrip("/"))
        files = {name: _read(tree, f"{folder}{name}") for name in (META, GROUND_TRUTH)}
    else:
        raise DataError(
            f"{tree.describe('')}: no development kit: put {archive} or its folder there, or read class folders with "
            "datasets.<name>.source=folder"
        )
    wnids = _wnids(files[META], f"{where}: {META}")
    return DevelopmentKit(wnids, _val_ids(files[GROUND_TRUTH], len(wnids), f"{where}: {GROUND_TRUTH}"), where)


def _read(tree: Tree, path: str) -> bytes:
    found = tree.find(path)
    if found is not None and found.size > _LARGEST_FILE:
        raise DataError(f"{tree.describe(path)}: larger than the kit is; fetch it again")
    try:
        return tree.read(path)
    except BadImage as error:
        raise DataError(f"{tree.describe(path)}: cannot be read: {error}; fetch the development kit again") from error


def _unpack(archive: bytes, where: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(archive)) as file:
            # Unpacked in memory first, so that a header cannot ask for more than there is.
            plain = file.read(_LARGEST_UNPACKED + 1)
        if len(plain) > _LARGEST_UNPACKED:
            raise DataError(f"{where}: larger than the kit is when unpacked; fetch it again")
        with tarfile.open(fileobj=io.BytesIO(plain), mode="r:") as tar:
            for info in tar:
                name = "/".join(PurePosixPath(info.name).parts[-2:])
                if info.size > _LARGEST_FILE:
                    raise DataError(f"{where}: {info.name!a} is larger than the kit's files are; fetch it again")
                if name in (META, GROUND_TRUTH) and info.isreg():
                    content = tar.extractfile(info)
                    assert content is not None, "a regular file has content"
                    found[name] = content.read()
                if len(found) == 2:
                    break
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{where}: cannot be read as the kit's archive ({one_line(error)}); fetch it again") from error
    for name in (META, GROUND_TRUTH):
        if name not in found:
            raise DataError(f"{where}: has no {name}: it is not the development kit of 2012; fetch it again")
    return found


def _wnids(content: bytes, where: str) -> tuple[str, ...]:
    """Returns the WNIDs of the synsets without children, in the order of their ILSVRC2012_IDs."""
    wnid_of: dict[int, str] = {}
    try:
        for synset in _synsets(content):
            if int(synset["num_children"]) == 0:
                number, wnid = int(synset["ILSVRC2012_ID"]), synset["WNID"]
                if not isinstance(wnid, str) or not wnid.isascii() or not wnid.isalnum():
                    raise ValueError(f"{wnid!a} is not a WNID")
                if number in wnid_of:
                    raise ValueError(f"ILSVRC2012_ID {number} occurs twice")
                wnid_of[number] = str(wnid)
    except _UNREADABLE as error:
        reason = one_line(error)[:200]
        raise DataError(f"{where}: cannot be read as the kit's synsets ({reason}); fetch the kit again") from error
    missing = [number for number in range(1, len(wnid_of) + 1) if number not in wnid_of]
    if missing or not wnid_of:
        raise DataError(
            f"{where}: its {len(wnid_of)} low-level synsets should have ILSVRC2012_IDs from 1 on, without a gap; "
            f"{missing[0] if missing else 1} is missing; fetch the kit again"
        )
    if len(set(wnid_of.values())) < len(wnid_of):
        raise DataError(f"{where}: a WNID occurs twice; fetch the kit again")
    return tuple(wnid_of[number] for number in sorted(wnid_of))


def _synsets(content: bytes) -> Any:
    """Reads the struct array `synsets` [N] of a MATLAB file of version 5, with a field for each column of the kit."""
    import numpy as np
    from scipy.io import loadmat, whosmat
    from scipy.io.matlab import MatReadError

    plain = io.BytesIO(_decompressed(content))
    try:
        shapes = {name: shape for name, shape, kind in whosmat(plain) if kind == "struct"}
        if "synsets" not in shapes:
            raise ValueError("no struct array `synsets`")
        if not 0 < np.prod(shapes["synsets"], dtype=float) <= _MOST_SYNSETS:
            raise ValueError(f"`synsets` of {shapes['synsets']}")
        return np.atleast_1d(loadmat(plain, variable_names=["synsets"], squeeze_me=True)["synsets"])
    except MatReadError as error:
        raise ValueError(str(error)) from error


def _decompressed(content: bytes) -> bytes:
    """Returns the MATLAB file without compression, so that scipy cannot unpack more than fits into memory."""
    header, place = content[:_MAT_HEADER], _MAT_HEADER
    if len(header) < _MAT_HEADER or header[126:128] not in (b"IM", b"MI"):
        raise ValueError("no MATLAB file of version 5")
    order = "<" if header[126:128] == b"IM" else ">"
    elements, total = [header], 0
    while place < len(content):
        kind, size = struct.unpack_from(f"{order}II", content, place)
        element = content[place : place + _TAG + size]
        if len(element) < _TAG + size:
            raise ValueError("truncated")
        if kind == _COMPRESSED:
            unpacking = zlib.decompressobj()
            element = unpacking.decompress(element[_TAG:], _LARGEST_META)
            if not unpacking.eof:
                raise ValueError("truncated, or too large when unpacked")
        total += len(element)
        if total > _LARGEST_META:
            raise ValueError("too large when unpacked")
        elements.append(element)
        place += _TAG + size
    return b"".join(elements)


def _val_ids(content: bytes, num_classes: int, where: str) -> tuple[int, ...]:
    ids = []
    for number, line in enumerate(content.decode(errors="replace").rstrip().split("\n"), start=1):
        word = line.strip()
        if not (word.isascii() and word.isdigit() and len(word) < 10 and 1 <= int(word) <= num_classes):
            raise DataError(
                f"{where}: line {number}: {word[:40]!a} is not an ILSVRC2012_ID in 1…{num_classes}; fetch the kit again"
            )
        ids.append(int(word))
    return tuple(ids)
