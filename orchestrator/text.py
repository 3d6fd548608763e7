"""Formats durations, sizes and counts in one style, and removes secrets and control characters from text."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence

_SCHEME = r"(\w://)"
# A password may contain @ and slashes, though it should not; what follows a colon may also be a port.
_USER = re.compile(_SCHEME + r"(?:[^/\s'\"?#]*|[^/\s'\":@]*:(?!\d+(?:[/?#]|$))[^\s'\"]*)@")
_NAMED = re.compile(
    r"((?:password|passwd|token|secret|signature|credential|api[_-]?key|access[_-]?key)=)[^&\s'\"]+", re.IGNORECASE
)
_HEADER = re.compile(r"(authorization\W+(?:bearer|basic)\s+)[\w.~+/=-]+", re.IGNORECASE)
# Terminals act on these: cursor, title, clipboard, colours (C0, DEL, C1), and writing direction.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SECRET_NAME = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|CREDENTIAL|API_?KEY|ACCESS_KEY|PRIVATE_KEY", re.IGNORECASE)
_PLACE_NAME = re.compile(r"(PATH|FILE|DIR|MODE|PARALLELISM)$", re.IGNORECASE)
# Shorter values also occur inside ordinary words, and protect nothing.
_SHORTEST_SECRET = 6


def is_secret_name(name: str) -> bool:
    """Returns whether an environment variable of that name holds a secret."""
    return _SECRET_NAME.search(name) is not None and _PLACE_NAME.search(name) is None


def printable(text: str) -> str:
    """Returns `text` with control characters escaped, like `\\x1b`; line ends and tabs stay."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def complaint(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Returns an error's text or traceback, safe to show."""
    return printable(without_secrets(text, environment))


def without_secrets(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Returns `text` without passwords in addresses and without the values of variables with secret names."""
    for name, value in environment.items():
        if len(value) >= _SHORTEST_SECRET and is_secret_name(name):
            text = text.replace(value, "***")
    return redact(text)


def redact(text: str) -> str:
    """Hides passwords and tokens of URIs and request headers inside `text`."""
    text = _NAMED.sub(r"\1***", _USER.sub(r"\1***@", text))
    return _HEADER.sub(r"\1***", text)


def duration(seconds: float) -> str:
    """Formats seconds: `45 s`, `2 min 05 s`, `3 h 20 min`, `4 d 06 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02} h"


def size(num_bytes: float) -> str:
    """Formats bytes by powers of ten: `950 B`, `12.3 MB`, `252 GB`."""
    value, unit = float(num_bytes), "B"
    for larger in ("KB", "MB", "GB", "TB"):
        if round(value) < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}" if unit != "B" and value < 99.95 else f"{value:.0f} {unit}"


def table(rows: Iterable[Sequence[str]], num_texts: int) -> list[str]:
    """Aligns the columns of `rows`, the first `num_texts` to the left and all others to the right."""
    columns = []
    for place, column in enumerate(zip(*rows, strict=True)):
        width = max(map(len, column))
        columns.append([cell.ljust(width) if place < num_texts else cell.rjust(width) for cell in column])
    return ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]


def counted(number: float, noun: str) -> str:
    """Formats a number with its noun: `1 image`, `2,000 images`, `10 classes`."""
    text = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{text} {noun}" if number == 1 else f"{text} {noun}{'es' if noun.endswith('s') else 's'}"
