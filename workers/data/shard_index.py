"""What lies where in a tar file: read from its headers alone, so that no member is ever extracted.

Names that lead out of an archive, links and devices are never followed: they are told as what they are.
"""

import tarfile
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import IO

from workers.data.tar_index import Span, Window, require_end
from workers.data.tree import Entry, Tree, driver_errors, one_line, require_one_line, said_by
from workers.errors import DataError

# Labels are short; a longer file beside an image is none.
_LABEL_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """A member's bytes: `size` of them from `offset` of the shard on; `problem` is why they cannot be had, or ""."""

    name: str
    offset: int
    size: int
    problem: str = ""


@dataclass(slots=True)
class Sample:
    """The members of one shard that have one key: images by their extension, small files by theirs, with content.

    `beside` is an image whose extension has a dot, as in seg.png: it is none of the sample's own.
    """

    key: str
    images: dict[str, Member] = field(default_factory=dict)
    labels: dict[str, bytes] = field(default_factory=dict)
    problem: str = ""
    beside: str = ""


def index_shard(
    tree: Tree, shard: Entry, image_extensions: frozenset[str], label_extensions: frozenset[str]
) -> tuple[Sample, ...]:
    """The samples of a tar file in its order; extensions are compared in lower case.

    Raises:
        DataError: no tar file, a compressed or damaged or incomplete one, or a name that does not fit on one line.
    """
    at = tree.describe(shard.path)
    samples: dict[str, Sample] = {}
    with tree.reader(shard.path) as file:
        try:
            # A window never reads as much as a hostile header asks for.
            window = Window(file, Span(0, shard.size))
            with tarfile.TarFile(fileobj=window, mode="r") as tar:  # type: ignore[arg-type]
                reached = -1
                while (info := tar.next()) is not None:
                    if info.offset <= reached:
                        raise DataError(f"{at}: is damaged at byte {info.offset}: its headers lead in a circle")
                    reached = info.offset
                    # What tarfile keeps of each member would outgrow what is wanted of them.
                    tar.members.clear()  # type: ignore[attr-defined]
                    _take(samples, info, file, shard, at, image_extensions, label_extensions)
                require_end(window, tar.offset, at)
        except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
            raise DataError(f"{at}: not a plain tar file, or damaged ({one_line(error)}): {_advice(file)}") from error
        except driver_errors() as error:
            raise DataError(f"{at}: {said_by(error)}") from error
    return tuple(samples.values())


def _take(
    samples: dict[str, Sample],
    info: tarfile.TarInfo,
    file: IO[bytes],
    shard: Entry,
    at: str,
    image_extensions: frozenset[str],
    label_extensions: frozenset[str],
) -> None:
    folder, _, base = info.name.rpartition("/")
    stem, dot, extension = base.partition(".")
    lower = extension.lower()
    # Hidden files have no stem: what a Mac adds beside each file is none of the data.
    if info.isdir() or not stem or not dot:
        return
    is_beside = lower.rpartition(".")[2] in image_extensions and lower not in image_extensions
    if not is_beside and lower not in image_extensions | label_extensions:
        return
    require_one_line(info.name, at)
    # `tar cf x.tar .` puts ./ before every name.
    parts = [part for part in folder.split("/") if part not in ("", ".")]
    key = "/".join((*parts, stem))
    sample = samples.get(key)
    if sample is None:
        sample = samples[key] = Sample(key)
    problem = _problem(info, parts, shard)
    if is_beside:
        sample.beside = info.name
    elif lower in image_extensions:
        if lower in sample.images:
            problem = "is there twice"
        sample.images[lower] = Member(info.name, info.offset_data, info.size, problem)
    elif problem or info.size > _LABEL_BYTES:
        sample.problem = f"{info.name} {problem or f'has {info.size} bytes, too many for a label'}"
    else:
        file.seek(info.offset_data)
        sample.labels[lower] = file.read(info.size)


def _problem(info: tarfile.TarInfo, folders: Collection[str], shard: Entry) -> str:
    if ".." in folders or info.name.startswith("/"):
        return "has a name that leads out of the archive"
    if not info.isreg() or info.issparse():
        kind = "a link" if info.issym() or info.islnk() else "no plain file"
        return f"is {kind}"
    if info.size < 0 or info.offset_data + info.size > shard.size:
        return "reaches beyond the end of the shard"
    return ""


def _advice(file: IO[bytes]) -> str:
    file.seek(0)
    if file.read(2) == b"\x1f\x8b":
        return "unpack it with gunzip, since images are read at their places in a plain one"
    return "fetch it again"
