"""Shows the preparation of datasets, and a summary at the end."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import IO, TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from orchestrator.text import counted, duration, size
from workers.data.store import MANIFEST, PrepareProgress
from workers.errors import some
from workers.settings import HELD_OUT

if TYPE_CHECKING:
    from workers.data.store import Store

_PHASES = {"read": "reading", "pack": "packing", "verify": "verifying"}
_PLAIN_EVERY_S = 10.0
_REDRAWN_EVERY_S = 0.1
_RATE_OVER_S = 30.0
_MOST_LEFT_OUT = 10


class Pace:
    """Images per second over the last half minute, so that shards of an earlier preparation soon stop counting."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, now_s: float, done: int) -> None:
        """Records that `done` images are done."""
        self._seen.append((now_s, done))
        while now_s - self._seen[0][0] > _RATE_OVER_S and len(self._seen) > 2:
            self._seen.popleft()

    def images_per_second(self) -> float | None:
        """Returns the rate, or None while too little is known."""
        (since_s, first), (now_s, done) = self._seen[0], self._seen[-1]
        return (done - first) / (now_s - since_s) if now_s > since_s and done > first else None


class Watch:
    """Shows progress on `stream`, one dataset after another: bars on a terminal, a line now and then elsewhere."""

    def __init__(
        self, stream: IO[str], clock: Callable[[], float] = time.monotonic, console: Console | None = None
    ) -> None:
        self._stream, self._clock = stream, clock
        self._console = console or Console(file=stream)
        self._bars: Progress | None = None
        self._task: TaskID | None = None
        self._phase, self._pace, self._shown_s = ("", ""), Pace(), 0.0

    def __call__(self, name: str, progress: PrepareProgress) -> None:
        """Takes the progress of dataset `name` after every image, and shows it now and then."""
        now_s = self._clock()
        begins = (name, progress.phase) != self._phase
        if begins:
            self._phase, self._pace, self._shown_s = (name, progress.phase), Pace(), now_s
            self._pace.add(now_s, progress.done)
        every_s = _REDRAWN_EVERY_S if self._console.is_terminal else _PLAIN_EVERY_S
        ends = progress.done == progress.total
        if now_s - self._shown_s < every_s and not ends and not (begins and self._console.is_terminal):
            return
        self._shown_s = now_s
        self._pace.add(now_s, progress.done)
        if self._console.is_terminal:
            self._show_bar(name, progress, begins=begins)
        else:
            what = f"datasets.{name}: {_PHASES[progress.phase]} images, {progress.done:,} of {progress.total:,}"
            self._stream.write(", ".join((what, *self._said(progress))) + "\n")
            self._stream.flush()

    def close(self) -> None:
        """Stops the live display; the bars stay on the terminal."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _said(self, progress: PrepareProgress) -> tuple[str, ...]:
        rate = self._pace.images_per_second()
        if rate is None:
            return ()
        speed = f"{rate:,.0f} images/s"
        left = progress.total - progress.done
        return (speed, f"{duration(left / rate)} left") if left else (speed,)

    def _show_bar(self, name: str, progress: PrepareProgress, *, begins: bool) -> None:
        if self._bars is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[said]}"),
            )
            self._bars = Progress(*columns, console=self._console, auto_refresh=False)
            self._bars.start()
        if begins or self._task is None:
            self._task = self._bars.add_task(f"{name}: {_PHASES[progress.phase]}", total=progress.total, said="")
        said = " · ".join(self._said(progress))
        self._bars.update(self._task, completed=progress.done, said=said, refresh=True)


def watching(stream: IO[str]) -> closing[Watch]:
    """Returns the context of a `Watch` whose display ends with the block."""
    return closing(Watch(stream))


def remarks_on(store: "Store", most: int = _MOST_LEFT_OUT) -> Iterator[str]:
    """Yields what to know of a prepared dataset: classes without images, decisions, at most so many left out."""
    for split in HELD_OUT:
        # Nothing that is scored there tells of them.
        labels = store.labels(split) if store.counts[split] else None
        if labels is not None and (missing := sorted(set(range(store.num_classes)) - set(labels.tolist()))):
            named = some([store.classes[label] for label in missing])
            yield f"{counted(len(missing), 'class')} without an image in {split}, so it says nothing of them: {named}"
    for decision, count in store.decided.items():
        yield f"{counted(count, 'image')}: {decision}"
    for split, rows in store.unreadable_rows.items():
        if rows:
            yield f"{len(rows):,} of {split} unreadable: their rows are kept, with uniform probabilities"
    for left_out in store.left_out[:most]:
        yield f"left out of {left_out['split']}: {left_out['path']} ({left_out['reason']})"
    if len(store.left_out) > most:
        yield f"and {len(store.left_out) - most:,} more left out"
    if store.decided or store.left_out:
        yield f"every file by name: {store.path / MANIFEST}"


def summary(name: str, store: "Store") -> Iterator[str]:
    """Yields lines about a prepared dataset: contents, folder, and what was decided about its files."""
    counts = ", ".join(f"{count:,} {split}" for split, count in store.counts.items())
    yield f"{name}: {counted(store.num_classes, 'class')} at {store.size} px; {counts}"
    yield f"  folder {store.path}"
    yield f"  digest {store.digest}"
    size_bytes = sum(path.stat().st_size for path in store.path.iterdir())
    yield f"  on disk {size(size_bytes)}"
    yield from (f"  {line}" for line in remarks_on(store))
