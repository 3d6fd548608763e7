"""Writes a verb's results to stdout and its progress to stderr."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO, Any

from orchestrator.text import complaint, printable

_CONTROL = re.compile("[\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Streams:
    """The output streams: `out` for results, `err` for progress and errors."""

    out: IO[str]
    err: IO[str]

    def results(self, lines: Iterable[str]) -> None:
        """Writes each line to stdout."""
        self.out.write("".join(f"{printable(str(line))}\n" for line in lines))

    def answer(self, document: Any, lines: Iterable[str]) -> None:
        """Writes the document, or the lines if it is None."""
        if document is None:
            self.results(lines)
        else:
            self.document(document)

    def document(self, value: Any) -> None:
        """Writes one JSON document to stdout."""
        text = json.dumps(value, indent=1, ensure_ascii=False)
        # Escapes control characters that json leaves and a terminal would act on.
        self.out.write(_CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")

    def progress(self, line: str) -> None:
        """Writes a line to stderr."""
        self.err.write(f"{complaint(line)}\n")
        self.err.flush()
