"""Times averaging stored predictions of seven members, 100,000 × 1,000 each, beside sha256 of the same files.

The files are in the page cache, and both sides use one thread. Combining is what a submission does with files that
have been checked: read, sum in float64, round to float32, block by block. The check, which computes the sha256 anyway,
has a row of its own.
"""

import hashlib
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.row import Measure, Row, Settings, Spread, Wanted
from benchmarks.turns import Turns, peak_mb, ratios, take_turns
from orchestrator.combine import MemberPredictions, blocks, mean, open_predictions
from orchestrator.run import SplitData
from workers.protocol import SplitPredictions
from workers.storage import sha256_of

_MEMBERS, _ROWS, _CLASSES = 7, 100_000, 1000
_MAX_RESIDENT_MB = 300
_DIGEST = "benchmark"


def _split() -> SplitData:
    rows = tuple(f"{row:06d}.JPEG" for row in range(_ROWS))
    return SplitData("test", rows, _DIGEST, None, np.zeros((_ROWS, 2), np.int32), ())


def _folders(scratch: Path) -> dict[str, Path]:
    return {f"member{number}": scratch / f"member{number}" for number in range(_MEMBERS)}


def _predict(folder: Path, seed: int) -> None:
    """Writes random distributions as a member's predictions."""
    folder.mkdir()
    path = folder / "test.npy"
    generator = np.random.default_rng(seed)
    stored = np.lib.format.open_memmap(path, "w+", np.dtype("<f4"), (_ROWS, _CLASSES))
    for rows in blocks(_ROWS, _CLASSES):
        block = generator.standard_exponential((rows.stop - rows.start, _CLASSES), np.float32) ** 4
        stored[rows] = block / block.sum(axis=1, keepdims=True)
    stored.flush()
    about = SplitPredictions("test", _ROWS, _CLASSES, _DIGEST, _DIGEST, sha256_of(path), "step-1", _DIGEST)
    (folder / "test.json").write_text(json.dumps(asdict(about)))


def _open(scratch: Path) -> tuple[MemberPredictions, ...]:
    return open_predictions(_folders(scratch), _split(), _CLASSES, _DIGEST)


def _combine_all(members: tuple[MemberPredictions, ...]) -> None:
    combined = mean(members)
    for rows in blocks(*combined.shape):
        combined[rows]


def _combine(scratch: Path, turns: Turns) -> None:
    members = _open(scratch)
    turns.play(lambda: _combine_all(members))


def _check(scratch: Path, turns: Turns) -> None:
    turns.play(lambda: _open(scratch))


def _hash(scratch: Path, turns: Turns) -> None:
    paths = [folder / "test.npy" for folder in _folders(scratch).values()]

    def work() -> None:
        for path in paths:
            with path.open("rb") as file:
                hashlib.file_digest(file, "sha256")

    turns.play(work)


def _resident_mb(scratch: Path, turns: Turns) -> None:
    """Reports this process's peak memory."""
    _combine_all(_open(scratch))
    peak = peak_mb()
    while True:
        turns.next(peak)


def run(settings: Settings) -> tuple[Row, ...]:
    """Measures the rows; writes 2.8 GB of predictions first."""
    for seed, folder in enumerate(_folders(settings.scratch).values()):
        _predict(folder, seed)
    contestants = {
        "combine": partial(_combine, settings.scratch),
        "check": partial(_check, settings.scratch),
        "hash": partial(_hash, settings.scratch),
    }
    readings = take_turns(contestants, settings.repeats)
    median = {name: Spread.of(seconds).median for name, seconds in readings.items()}
    (resident_mb,) = take_turns({"resident": partial(_resident_mb, settings.scratch)}, rounds=1)["resident"]
    title = f"{_MEMBERS} × {_ROWS:,} × {_CLASSES:,}"
    return (
        Row(
            name=f"combining {title} by mean, beside sha256 of the files",
            unit="s",
            ours=median["combine"],
            peer=median["hash"],
            limit=None,
            ratio=Spread.of(ratios(readings, "combine", "hash")),
            measure=Measure.times,
            wanted=Wanted(1.0, at_least=False),
            repeats=settings.repeats,
            note="page cache warm; one thread each",
        ),
        Row(
            name=f"peak resident memory of checking and combining {title}",
            unit="MB",
            ours=resident_mb,
            peer=None,
            limit=_MAX_RESIDENT_MB,
            ratio=Spread.of([resident_mb / _MAX_RESIDENT_MB]),
            measure=Measure.share,
            wanted=Wanted(1.0, at_least=False),
            repeats=1,
            note="of a fresh process, imports included",
        ),
        Row(
            name=f"checking {title} before, beside sha256 alone on one thread",
            unit="s",
            ours=median["check"],
            peer=median["hash"],
            limit=None,
            ratio=Spread.of(ratios(readings, "check", "hash")),
            measure=Measure.times,
            wanted=None,
            repeats=settings.repeats,
            note="bound by sha256; members side by side",
        ),
    )
