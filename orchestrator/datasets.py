"""The datasets of a configuration: surveyed for the plan, prepared for the run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orchestrator.config_schema import TARGET, Config
from orchestrator.plan import used_datasets
from workers.data.prepare import PrepareProgress, prepare
from workers.data.sources import Survey, survey
from workers.data.store import Store, open_store
from workers.errors import DataError

_HELD_OUT = ("dev", "val", "test")
_PHASES = {"read": "reading", "pack": "packing"}


@dataclass(frozen=True)
class Prepared:
    """Prepared stores by dataset name."""

    stores: Mapping[str, Store]

    @property
    def digests(self) -> dict[str, str]:
        return {name: store.digest for name, store in self.stores.items()}

    @property
    def paths(self) -> dict[str, Path]:
        return {name: store.path for name, store in self.stores.items()}


def survey_all(config: Config, *, allow_absent: bool = False) -> dict[str, Survey]:
    """Surveys every dataset that a stage reads; raises DataError where one does not hold what it must."""
    return {name: survey(config.datasets[name], allow_absent=allow_absent) for name in used_datasets(config)}


def prepare_all(config: Config, note: Callable[[str], None]) -> Prepared:
    """Packs every dataset that a stage reads, or finds it packed; `note` hears a line at each tenth of the way.

    Raises:
        DataError: images cannot be read, a split lacks what it must have, or training would see held-out images.
        StorageError: the store is full, unwritable or damaged.
    """
    stores = {}
    for name in used_datasets(config):
        stores[name] = open_store(prepare(config.datasets[name], config.store, _Tenths(name, note)))
    _refuse_leaks(stores)
    return Prepared(stores)


def _refuse_leaks(stores: Mapping[str, Store]) -> None:
    """Pre-training must not see what the target holds out: two datasets may hold out differently, or overlap."""
    target = stores[TARGET]
    for name, store in stores.items():
        if name == TARGET:
            continue
        trained_on = _content_keys(store, "train")
        for split in _HELD_OUT:
            leaked = np.flatnonzero(np.isin(trained_on, _content_keys(target, split)))
            if len(leaked):
                raise DataError(
                    f"datasets.{name}: {len(leaked)} of its training images are in the {split} split of "
                    f"datasets.{TARGET}, first {store.rows('train')[leaked[0]]}; remove them, or give both datasets "
                    "the same val_fraction and dev_fraction"
                )


def _content_keys(store: Store, split: str) -> np.ndarray:
    """One comparable value an image: its content's sha256 as 32 bytes."""
    return np.ascontiguousarray(store.contents(split)).view("S32").ravel()


class _Tenths:
    """Turns progress of single images into at most ten lines a phase."""

    def __init__(self, name: str, note: Callable[[str], None]) -> None:
        self._name, self._note = name, note
        self._last = ("", 0)

    def __call__(self, progress: PrepareProgress) -> None:
        reached = (progress.phase, 10 * progress.done // max(1, progress.total))
        if reached != self._last and reached[1]:
            doing = _PHASES.get(progress.phase, progress.phase)
            self._note(f"datasets.{self._name}: {doing} images, {progress.done} of {progress.total}")
        self._last = reached
