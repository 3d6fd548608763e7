"""Text of others on its way to a terminal: secrets hidden, control characters shown instead of obeyed."""

import os
import re
from collections.abc import Mapping

from orchestrator.tracking.uri import redact

# Terminals obey these: cursor, title, clipboard, colours (C0, DEL, C1), and the order in which letters are shown.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SECRET_NAME = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|CREDENTIAL|API_?KEY|ACCESS_KEY|PRIVATE_KEY", re.IGNORECASE)
_PLACE_NAME = re.compile(r"(PATH|FILE|DIR|MODE|PARALLELISM)$", re.IGNORECASE)
# Shorter values are found inside ordinary words, and protect nothing.
_SHORTEST_SECRET = 6


def is_secret_name(name: str) -> bool:
    """Whether an environment variable of that name is meant to stay unseen."""
    return _SECRET_NAME.search(name) is not None and _PLACE_NAME.search(name) is None


def printable(text: str) -> str:
    """`text` with what a terminal would obey written out, as `\\x1b`; line ends and tabs stay."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def without_secrets(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """`text` without passwords in addresses, and without what variables of telling names hold."""
    for name, value in environment.items():
        if len(value) >= _SHORTEST_SECRET and is_secret_name(name):
            text = text.replace(value, "***")
    return redact(text)


def complaint(text: str) -> str:
    """An error's text, or a traceback, as it may be shown."""
    return printable(without_secrets(text))
