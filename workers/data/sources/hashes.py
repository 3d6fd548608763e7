"""Stores the sha256 of images' contents on disk in blocks, so that a kill does not cost hours of reading.

A block has 32 bytes for each file in the listing's order, and is committed by rename. The name of a folder of blocks
must contain the listing's fingerprint, which changes with every file.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

from workers.storage import write_bytes
from workers.threads import map_in_order

Item = TypeVar("Item")
_BLOCK = 2048
_HANDFUL = 8
_SHA256_BYTES = 32


@dataclass(frozen=True)
class KeptContents:
    """A folder of blocks; None stores nothing."""

    folder: Path | None

    def hashed(
        self, content_of: Callable[[Item], bytes], items: Sequence[Item], num_readers: int | None = None
    ) -> Iterator[bytes]:
        """Yields content_of(item), 32 bytes each, in order; reads existing blocks in place of their items.

        `num_readers` threads read at once; None means one for each core.

        Raises:
            StorageError: a block cannot be written.
        """
        blocks = range(0, len(items), _BLOCK)
        found = [self._read(start, min(_BLOCK, len(items) - start)) for start in blocks]
        missing = [
            item
            for start, block in zip(blocks, found, strict=True)
            if block is None
            for item in items[start : start + _BLOCK]
        ]
        # Several at a time, because passing one item to a thread takes as long as hashing a small image.
        handfuls = (missing[start : start + _HANDFUL] for start in range(0, len(missing), _HANDFUL))
        contents = chain.from_iterable(
            map_in_order(lambda handful: [content_of(each) for each in handful], handfuls, num_readers)
        )
        for start, block in zip(blocks, found, strict=True):
            if block is not None:
                yield from (block[at : at + _SHA256_BYTES] for at in range(0, len(block), _SHA256_BYTES))
                continue
            hashed = []
            for content in islice(contents, min(_BLOCK, len(items) - start)):
                hashed.append(content)
                yield content
            if self.folder is not None:
                write_bytes(self.folder / _name(start), b"".join(hashed))

    def _read(self, start: int, num_items: int) -> bytes | None:
        if self.folder is None:
            return None
        try:
            block = (self.folder / _name(start)).read_bytes()
        except OSError:
            return None
        return block if len(block) == num_items * _SHA256_BYTES else None


def _name(start: int) -> str:
    return f"{start:09d}.sha256"


UNKEPT = KeptContents(None)
