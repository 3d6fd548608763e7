"""Compares finished runs on the images that all of them have; needs no model or dataset, and takes no lock."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from orchestrator.combine import LEFT_OUT, Interval, Missing, without
from orchestrator.fitting import mcnemar, mean_interval, wilson
from orchestrator.opened import open_members, score_splits
from orchestrator.plan import plan_from_json
from orchestrator.report import SplitScores, macro_averages, percent, points, score
from orchestrator.run import RunData, RunPaths, core_seconds, open_book, read_record
from orchestrator.submission import read_manifest
from orchestrator.text import counted, table
from workers.errors import ConfigError, DataError, some

_HEADER = ("", "ensemble", "best member", "mean", "NLL", "ECE", "macro-F1", "core-s", "than the first", "McNemar's p")


def compare_runs(folders: Sequence[Path]) -> dict[str, Any]:
    """Compares the runs in `folders` on the images of their main split, joined by name and label.

    Returns a JSON document: of each run its ensemble, as the last submission combined it, and its members on the common
    images, the paired difference from the first run, and the names of its other images.

    Raises:
        ConfigError: fewer than two runs.
        DataError: a run has no labelled image, or other classes or another main split, or no image is common.
        MemberFailed, CheckFailed: as `septet report`; a run without a submission too.
    """
    if len(folders) < 2:
        raise ConfigError("compare: give two run directories at least")
    opened = [(str(folder), *open_scores(RunPaths(folder))) for folder in folders]
    first, wanted, main, _ = opened[0]
    for name, data, scores, _ in opened:
        if (data.classes, scores.split) != (wanted.classes, main.split):
            what = "is scored on another split" if data.classes == wanted.classes else "has other classes"
            raise DataError(f"{name} {what} than {first}; compare runs of one target")
    rows = [data.splits[main.split].rows for _, data, *_ in opened]
    images = [
        set(zip(own, scores.labels.tolist(), strict=True)) for own, (*_, scores, _) in zip(rows, opened, strict=True)
    ]
    common = sorted(row for row, _ in set.intersection(*images))
    if not common:
        raise DataError(f"{', '.join(str(folder) for folder in folders)}: no image of {main.split} is in all of them")
    base, runs = np.zeros(0), list[dict[str, Any]]()
    for (name, _, scores, cost), own in zip(opened, rows, strict=True):
        places = {row: place for place, row in enumerate(own)}
        at = np.array([places.pop(row) for row in common])
        reading, labels = scores.reading.at(at), scores.labels[at]
        wrong, members = reading.wrong, {name: score(one.at(at)).top1_error for name, one in scores.readings.items()}
        base = base if runs else wrong
        best = min(members, key=members.__getitem__)
        apart = {"than_first": asdict(mean_interval(wrong - base))}
        found = {"run": name, "error": asdict(wilson(int(wrong.sum()), len(wrong))), **asdict(score(reading))}
        found |= {**macro_averages(reading, labels, scores.num_classes), "members": members, "best_member": best}
        found |= {"mean_top1_error": fmean(members.values()), "core_seconds": cost, **apart}
        found |= {"p": mcnemar(int((wrong > base).sum()), int((wrong < base).sum())), "left_out": list(places)}
        runs.append(found)
    return {"split": main.split, "num_images": len(common), "runs": runs}


def open_scores(paths: RunPaths) -> tuple[RunData, SplitScores, float | None]:
    """Returns a run's data, the scores of its main split, and its core-seconds, None if the ledger lacks some."""
    record, manifest = read_record(paths), read_manifest(paths)
    names, plan = [member.name for member in manifest.members], plan_from_json(record.plan)
    plan = without(plan, [Missing(name, LEFT_OUT) for name in plan.members if name not in names])
    opened = open_members(paths, plan, open_book(paths).committed).ordered(names, manifest.combination)
    if not (scores := score_splits(plan, opened)):
        raise DataError(f"{paths.root}: no labelled image is held out of training, so there is nothing to compare")
    costs = core_seconds(paths, plan, record.numerics.threads).values()
    known = [cost for cost in costs if cost is not None]
    return opened.data, scores[0], sum(known) if len(known) == len(costs) else None


def comparison_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yields the table of the runs, and which images are left out."""
    yield f"{found['split']}: {counted(found['num_images'], 'image')} that all {len(found['runs'])} runs have"
    yield ""
    lines, notes = (
        [_HEADER],
        ["Top-1 errors with 95 % intervals over images; differences in points, on the same images."],
    )
    for one in found["runs"]:
        best, mean = f"{100 * one['members'][one['best_member']]:.2f} %", f"{100 * one['mean_top1_error']:.2f} %"
        scores = (f"{one['nll']:.4f}", f"{100 * one['ece']:.2f} %", f"{100 * one['macro_f1']:.2f} %")
        cost = "unknown" if one["core_seconds"] is None else f"{one['core_seconds']:,.0f}"
        apart = (points(Interval(**one["than_first"])), f"{one['p']:.3g}") if lines[1:] else ("", "")
        members = (f"{best} ({one['best_member']})", mean)
        lines.append((one["run"], percent(Interval(**one["error"])), *members, *scores, cost, *apart))
        if left := one["left_out"]:
            count, named = counted(len(left), "image"), some(left, most=5)
            notes.append(f"LEFT OUT: {count} of {one['run']}, not in all or labelled otherwise: {named}")
    yield from (*table(lines, 1), "", *notes)
