"""Writes a verb's results to stdout and its progress to stderr.

Either may be closed or full. Progress is then dropped, and so are results that are also in files (news); a lost result
that is nowhere else is an error.
"""

import io
import json
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO, Any

from orchestrator.text import complaint, printable
from workers.errors import StorageError

_UTF8 = (None, "utf-8", "UTF-8")
_CONTROL = re.compile("[\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class _Descriptor(io.FileIO):
    """A descriptor on which a failed write is dropped if it carries `news`, and a StorageError once otherwise."""

    news = False

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if not self.news and isinstance(error, BrokenPipeError):
                raise
            news, self.news = self.news, True
            if not news:
                raise StorageError(f"stdout: the result cannot be written ({error.strerror})") from error
            return memoryview(data).nbytes


def guard_standard_streams() -> None:
    """Replaces stdout and stderr by streams that survive closed descriptors and other encodings than UTF-8."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # Occupied, or the next file that is opened would take the number; unwritable, so that results are missed.
            os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)
    for number, name in ((1, "stdout"), (2, "stderr")):
        before = getattr(sys, name)
        if before is getattr(sys, f"__{name}__"):
            raw, encoding, is_line_buffered = _Descriptor(number, "w", closefd=False), "utf-8", False
            raw.news = name == "stderr"
            if before is not None:
                before.flush()
                encoding, is_line_buffered = before.encoding, before.line_buffering or before.write_through
            stream = io.TextIOWrapper(io.BufferedWriter(raw), encoding, "replace", line_buffering=is_line_buffered)
            setattr(sys, name, stream)


def carry_news(*, news: bool) -> None:
    """With `news`, makes stdout drop what it cannot write: the exit code tells how the verb ended."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, _Descriptor):
        raw.news = news


@dataclass(frozen=True)
class Streams:
    """The output streams: `out` for results, `err` for progress and errors."""

    out: IO[str]
    err: IO[str]

    def results(self, lines: Iterable[str]) -> None:
        """Writes each line to stdout."""
        self.out.write("".join(f"{printable(str(line))}\n" for line in lines))

    def answer(self, document: Any, lines: Iterable[str]) -> None:
        """Writes one JSON document to stdout, or the lines if it is None."""
        if document is None:
            self.results(lines)
            return
        text = json.dumps(document, indent=1, ensure_ascii=getattr(self.out, "encoding", None) not in _UTF8)
        # Escapes control characters that json leaves and a terminal would act on.
        self.out.write(_CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")

    def progress(self, line: str) -> None:
        """Writes a line to stderr."""
        self.err.write(f"{complaint(line)}\n")
        self.err.flush()
