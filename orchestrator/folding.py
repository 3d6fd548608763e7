"""Finds the folds of a run's training images: by their contents, by groups, or in a file made elsewhere."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.config import TARGET, Config, FoldsConfig, overlay
from workers.data.folds import assign
from workers.data.ids import ids_of_rows
from workers.data.sources import column_of_train, read_values
from workers.data.store import Store
from workers.errors import ConfigError, DataError, some
from workers.settings import Source


def with_folds(config: Config) -> Config:
    """Returns `config` with the sha256 of groups, or of folds made elsewhere, in every recipe and so in the plan.

    Raises:
        ConfigError: there is no such file or column.
        DataError: the file is malformed.
    """
    asked = config.folds
    if asked is None or not (asked.groups or asked.file):
        return config
    lines = "".join(f"{name}\t{value}\n" for name, value in sorted(_values(config, asked).items()))
    given = {"file" if asked.file else "groups": hashlib.sha256(lines.encode()).hexdigest()}
    members = {}
    for name, member in config.members.items():
        stages = {
            stage: replace(recipe, fold=overlay(recipe.fold, given, stage)) if recipe.fold.k else recipe
            for stage, recipe in member.stages.items()
        }
        members[name] = replace(member, stages=stages)
    return replace(config, members=members)


def find_folds(config: Config, target: Store) -> NDArray[np.int16] | None:
    """Returns the fold of each training image of `target` in each division, [images, repeats]; None without folds.

    Corrected labels move no image to another fold, and those that are left out are in none.

    Raises:
        ConfigError, DataError: as `with_folds`; or an image has no group or fold, copies of one are in two folds, or a
            fold is empty.
    """
    asked, groups = config.folds, None
    if asked is None:
        return None
    whole, target = target, target.as_given()
    contents, labels = target.contents("train"), target.labels("train")
    assert labels is not None
    if asked.groups or asked.file:
        values = _values_of(target.rows("train"), _values(config, asked), _key(asked))
        names, groups = np.unique(values, return_inverse=True)
    if asked.file:
        numbers = [int(name) if name.isdecimal() else asked.k for name in names]
        if max(numbers) >= asked.k:
            raise DataError(f"{_key(asked)}: has the fold {names[np.argmax(numbers)]}; give 0 … folds.k - 1")
        own = np.array(numbers, np.int16)[groups]
        _require_copies_together(target, own, _key(asked))
        folds = own[:, None]
    else:
        every = [assign(contents, labels, asked.k, repeat, groups) for repeat in range(asked.repeats)]
        folds = np.stack(every, axis=1)
    folds = folds[whole.kept.get("train", slice(None))]
    if empty := [number for number in range(asked.k) if not (folds == number).any(axis=0).all()]:
        raise DataError(f"{_key(asked)}: no image is in fold {empty[0]}; give a smaller folds.k")
    return folds


def _key(asked: FoldsConfig) -> str:
    given = {"file": asked.file, "groups": asked.groups, "k": asked.k}
    return next(f"folds.{name}={value}" for name, value in given.items() if value)


def _values(config: Config, asked: FoldsConfig) -> Mapping[str, str]:
    """Returns the group or the fold of each image by its id."""
    path, target = Path(asked.file or asked.groups or ""), config.datasets[TARGET]
    try:
        if path.is_file():
            return read_values(path)
        if asked.groups and target.source is Source.csv:
            return column_of_train(target, asked.groups)
    except DataError as error:
        raise DataError(f"{_key(asked)}: {str(error).replace('<name>', TARGET)}") from error
    raise ConfigError(
        f"{_key(asked)}: no such file; give a csv file with a line for each image, as id,group or id,fold"
    )


def _values_of(rows: Sequence[str], values: Mapping[str, str], key: str) -> list[str]:
    """Returns the value of each of `rows`, paths of training images, by any name that a file may use for them."""
    try:
        names = ids_of_rows(rows, values)
    except DataError as error:
        raise DataError(f"{key}: {error}") from error
    if missing := [row for row in rows if row not in names]:
        raise DataError(f"{key}: no line for {len(missing)} training images: {some(missing)}; add them")
    return [values[names[row]] for row in rows]


def _require_copies_together(target: Store, folds: NDArray[np.int16], key: str) -> None:
    _, first, own = np.unique(target.contents("train"), axis=0, return_index=True, return_inverse=True)
    apart = np.flatnonzero(folds != folds[first[own]])
    if len(apart):
        rows = target.rows("train")
        pair = f"{rows[first[own[apart[0]]]]} and {rows[apart[0]]}"
        raise DataError(f"{key}: {pair} are the same image, in two folds; put them into one")
