"""scikit-learn's bundled handwritten digits: 1797 real 8 × 8 images, without a download.

The file is read in its installation: importing scikit-learn takes two seconds, and reading the file 20 ms.

The upright digits are split first. The superset of 40 classes then turns each digit inside its split.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from workers.data.decoding import RULES, Picture, Rules
from workers.data.held_out import hold_out, lowest
from workers.data.sources.listing import UNKEPT, KeptContents, Loader, Row, Rows, by_name, unwatched
from workers.settings import SPLITS, DatasetSettings

TEST_FRACTION = 0.2
# The file counts ink from 0 to 16.
_BRIGHTEST = 16


@dataclass(frozen=True)
class Digits:
    """The bundled images, [1797, 8, 8] uint8 of 0…255, and the digit that each shows, [1797] int64."""

    images: np.ndarray
    targets: np.ndarray


@cache
def bundled_digits() -> Digits:
    """Reads the digits that scikit-learn bundles: a line has the ink of 64 pixels, row by row, then the digit."""
    spec = find_spec("sklearn")
    assert spec is not None and spec.origin is not None, "scikit-learn is a dependency"
    table = np.loadtxt(Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    images = np.round(table[:, :-1] * (255 / _BRIGHTEST)).astype(np.uint8)
    return Digits(images.reshape(-1, 8, 8), table[:, -1].astype(np.int64))


@dataclass(frozen=True)
class DigitsListing:
    """The digits, each in `settings.orientations` quarter turns; class index = digit · orientations + turns.

    Every split, including test, has all orientations of its digits.
    """

    settings: DatasetSettings

    labelled_test = True
    class_ids: ClassVar[tuple[str, ...]] = ()

    @cached_property
    def classes(self) -> tuple[str, ...]:
        if self.settings.orientations == 1:
            return tuple(str(digit) for digit in range(10))
        return tuple(f"{digit}@{90 * turns}" for digit in range(10) for turns in range(self.settings.orientations))

    def counts(self) -> dict[str, int]:
        return {split: len(rows) for split, rows in self.rows(unwatched).splits.items()}

    def fingerprint(self) -> str:
        digits = bundled_digits()
        return hashlib.sha256(digits.images.tobytes() + digits.targets.tobytes()).hexdigest()

    def named_classes(self) -> dict[str, dict[str, str]]:
        return self.rows(unwatched).named_classes(self.classes)

    def rows(self, progress: Callable[[int, int], None], kept: KeptContents = UNKEPT) -> Rows:
        del kept
        digits = bundled_digits()
        upright = [
            Row(f"digit-{index:04d}", str(index), int(digit), hashlib.sha256(digits.images[index].tobytes()).digest())
            for index, digit in enumerate(digits.targets)
        ]
        progress(len(upright), len(upright))
        classes = [[row.content for row in upright if row.label == digit] for digit in range(10)]
        test = frozenset[bytes]().union(*(lowest(contents, TEST_FRACTION, b"test") for contents in classes))
        held_out = hold_out(
            [[content for content in contents if content not in test] for contents in classes],
            self.settings.val_fraction,
            self.settings.dev_fraction,
        )

        def split_of(row: Row) -> str:
            return "test" if row.content in test else held_out.split_of(row.content)

        return Rows(
            {
                split: by_name([turned for row in upright if split_of(row) == split for turned in self._turns(row)])
                for split in SPLITS
            },
            (),
        )

    def _turns(self, row: Row) -> list[Row]:
        if self.settings.orientations == 1:
            return [row]
        return [
            replace(
                row,
                name=f"{row.name}@{90 * turns}",
                path=f"{row.path}@{turns}",
                label=row.label * self.settings.orientations + turns,
            )
            for turns in range(self.settings.orientations)
        ]

    def loader(self) -> Loader:
        return self

    def load(self, row: Row, size: int, rules: Rules = RULES) -> Picture:
        del rules
        index, _, turns = row.path.partition("@")
        digit = np.ascontiguousarray(np.rot90(bundled_digits().images[int(index)], int(turns or 0)))
        pixels = np.asarray(Image.fromarray(digit).resize((size, size), Image.Resampling.BICUBIC).convert("RGB"))
        return Picture(pixels, digit.shape[1], digit.shape[0])
