"""Images read where they lie, inside uncompressed tars too; a path says at which place."""

import re
from dataclasses import dataclass

from workers.data.decoding.decoder import BadImage
from workers.data.tree import Tree

# How a path names an image in an archive: archive@offset+size/name.
_IN_ARCHIVE = re.compile(r"(?P<archive>.+?)@(?P<offset>\d+)\+(?P<size>\d+)/.+", re.DOTALL)


def path_in_archive(archive: str, offset: int, size: int, name: str) -> str:
    """The path of an image inside an archive; those of one archive sort as their images lie, which disks like."""
    return f"{archive}@{offset:012d}+{size}/{name}"


@dataclass(frozen=True)
class ArchivesAndFiles:
    """Images in files of their own, or in uncompressed tars, where their paths say at which place.

    So a path is all that a reader needs, in whatever process: no index of a million images has to travel with it.
    """

    tree: Tree

    @property
    def identity(self) -> str:
        return self.tree.identity

    @property
    def num_readers(self) -> int | None:
        return self.tree.num_readers

    def read(self, path: str) -> bytes:
        found = _IN_ARCHIVE.fullmatch(path)
        if found is None:
            return self.tree.read(path)
        size = int(found["size"])
        content = self.tree.read_range(found["archive"], int(found["offset"]), size) if size else b""
        if not content:
            raise BadImage("empty file")
        if len(content) < size:
            raise BadImage(f"the archive ends within it: {len(content)} bytes of {size}")
        return content
