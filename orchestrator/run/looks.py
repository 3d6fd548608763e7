"""Counts how often the labels of a dataset's split were looked at: one file for each different answer that was scored.

The files lie beside the prepared datasets, by the dataset's digest, so that all runs of a user share them.
"""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from workers.errors import StorageError
from workers.storage import storage_errors, write_json

_FOLDER = "looks"
_log = logging.getLogger(__name__)


def enter_look(store: Path, digest: str, split: str, answer: Sequence[object], run: str) -> int:
    """Enters that `answer`, what probabilities were made from, was scored by the `run` on a split of dataset `digest`.

    The files lie in the parent of `store`, the folder of any prepared dataset. Returns the number of different answers
    that were scored so far; 0 if that place cannot be written.
    """
    folder = store.parent / _FOLDER / digest / split
    look = folder / hashlib.sha256(repr(tuple(answer)).encode()).hexdigest()[:32]
    try:
        with storage_errors(folder):
            if not store.parent.is_dir():
                return 0
            folder.mkdir(parents=True, exist_ok=True)
            if not look.exists():
                write_json(look, {"run": run})
            return sum(1 for path in folder.iterdir() if len(path.name) == len(look.name))
    except (OSError, StorageError) as error:
        _log.warning("looks at %s are not counted: %s", split, error)
        return 0
