"""Reads what the teachers of a stage say about training images: the mean of those that did not see them.

Their files are mapped, not read: a million images of a thousand classes are 4 GB a division into folds.
"""

from collections.abc import Callable, Sequence

import numpy as np

from workers.data.store import open_store, rows_of_fold
from workers.errors import CheckFailed
from workers.protocol import Teacher
from workers.storage import sha256_of, storage_errors


class Teachers:
    """The teachers' probabilities of the target's training images, softened by a temperature."""

    def __init__(
        self,
        given: Sequence[Teacher],
        num_classes: int,
        temperature: float = 1.0,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        """Opens the files; `beat` is called before each is hashed.

        Raises:
            CheckFailed: a file is gone, or is not what its teacher predicted.
            StorageError: a file, or the folds, cannot be read.
        """
        self._num_classes, self._temperature = num_classes, temperature
        self._parts, target = [], open_store(given[0].fold.target)
        for teacher in given:
            beat()
            rows, path = rows_of_fold(target, teacher.fold), teacher.predictions
            with storage_errors(path):
                found = sha256_of(path) if path.is_file() else "of no file"
                if found != teacher.sha256:
                    raise CheckFailed(
                        f"{path}: changed since it was predicted (sha256 {found[:12]}, not {teacher.sha256[:12]}), and "
                        "a student learns from it; run `septet launch` again, which predicts again"
                    )
                probabilities = np.load(path, mmap_mode="r", allow_pickle=False)
            if probabilities.shape != (len(rows), num_classes):
                raise CheckFailed(f"{path}: is of other images than its fold; run `septet launch` again")
            self._parts.append((rows, probabilities))

    def of(self, images: np.ndarray) -> np.ndarray:
        """Returns [images, classes] float32: the mean over teachers, softened, of images by their index in train."""
        total, votes = np.zeros((len(images), self._num_classes)), np.zeros((len(images), 1))
        for rows, probabilities in self._parts:
            places = np.searchsorted(rows, images).clip(max=len(rows) - 1)
            own = np.flatnonzero(rows[places] == images)
            total[own] += probabilities[places[own]]
            votes[own] += 1
        total /= votes
        if self._temperature != 1:
            total **= 1 / self._temperature
            total /= total.sum(axis=1, keepdims=True)
        return total.astype(np.float32)
