"""sha256 of images' contents, kept on disk a block at a time: reading all of a large set takes hours, and a kill comes.

A block is 32 bytes a file in the listing's order, committed by rename. Whoever uses a folder of blocks names it by the
listing's fingerprint, which no change of a file leaves as it was.
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
    """`folder` is where blocks are; None keeps none."""

    folder: Path | None

    def hashed(
        self, content_of: Callable[[Item], bytes], items: Sequence[Item], num_readers: int | None = None
    ) -> Iterator[bytes]:
        """Yields content_of(item), 32 bytes each, in order; reads the blocks that are there in place of the items.

        `num_readers` at once; None is one for each core.

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
        # Several at a time: handing one over to a thread takes as long as hashing a small image.
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
            self._write(start, b"".join(hashed))

    def _path(self, folder: Path, start: int) -> Path:
        return folder / f"{start:09d}.sha256"

    def _read(self, start: int, num_items: int) -> bytes | None:
        if self.folder is None:
            return None
        try:
            block = self._path(self.folder, start).read_bytes()
        except OSError:
            return None
        return block if len(block) == num_items * _SHA256_BYTES else None

    def _write(self, start: int, block: bytes) -> None:
        if self.folder is not None:
            write_bytes(self._path(self.folder, start), block)


UNKEPT = KeptContents(None)
