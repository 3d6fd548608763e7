"""Measures what a part of the net is worth: members without it are compared with whole ones, paired by seed.

    python -m benchmarks.ablations RUN_DIR

Reads report/scores.json of a run whose members are named `<variant>-s<seed>`, as in `experiment=ablations`; `full` is
the whole net. A difference is taken within each seed, on the same images; the interval is Student's t over the seeds.
The sign is claimed only where the interval excludes zero; otherwise the column says so.
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.seeds import interval, percent
from orchestrator.run import RunPaths

WHOLE = "full"
# Points that the paper's net loses without the part, top-1 and top-5 (§3.1, §3.3, §3.4, §3.5, §4.1); –: no figure.
PAPER: Mapping[str, tuple[str, str]] = {
    "no_lrn": ("1.4", "1.2"),
    "no_overlap": ("0.4", "0.3"),
    "no_colour": ("> 1", "–"),
    "no_conv4": ("≈ 2", "–"),
    "one_column": ("1.7", "1.2"),
    "tanh": ("slower", "–"),
}


@dataclass(frozen=True)
class Difference:
    """Differences of a variant's errors from the whole net's, by seed; `half` is half the 95 % interval's width."""

    variant: str
    errors: tuple[float, ...]
    differences: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.mean(self.differences)

    @property
    def half(self) -> float:
        return interval(list(self.differences)) if len(self.differences) > 1 else float("inf")

    @property
    def verdict(self) -> str:
        """Says what may be claimed about the sign."""
        if abs(self.mean) <= self.half:
            return "none: zero is inside"
        return "worse without" if self.mean > 0 else "better without"


def by_variant(members: Mapping[str, Mapping[str, float]], figure: str) -> dict[str, dict[str, float]]:
    """Returns `figure` by variant and seed, from members named `<variant>-s<seed>`."""
    found: dict[str, dict[str, float]] = {}
    for name, scores in members.items():
        variant, _, seed = name.rpartition("-s")
        found.setdefault(variant, {})[seed] = scores[figure]
    return found


def differences(members: Mapping[str, Mapping[str, float]], figure: str) -> list[Difference]:
    """Compares each variant with the whole net, over the seeds that both have."""
    variants = by_variant(members, figure)
    whole = variants.pop(WHOLE)
    found = []
    for variant, errors in variants.items():
        seeds = [seed for seed in errors if seed in whole]
        paired = tuple(errors[seed] - whole[seed] for seed in seeds)
        found.append(Difference(variant, tuple(errors[seed] for seed in seeds), paired))
    return found


def table(members: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Returns lines of markdown; errors are in per cent, differences in points."""
    whole = list(by_variant(members, "top1_error")[WHOLE].values())
    lines = [
        f"Whole net: {percent(statistics.mean(whole))} % top-1 ({', '.join(percent(value) for value in whole)}).",
        "",
        "| without | top-1 error % | difference, points ± 95 % | claimed | paper | top-5 difference | paper |",
        "|---|---|---|---|---|---|---|",
    ]
    fives = {one.variant: one for one in differences(members, "top5_error")}
    for one in differences(members, "top1_error"):
        five = fives[one.variant]
        paper = PAPER.get(one.variant, ("–", "–"))
        cells = [
            one.variant,
            percent(statistics.mean(one.errors)),
            f"{_points(one)} ({_each(one.differences)})",
            one.verdict,
            paper[0],
            _points(five),
            paper[1],
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _points(one: Difference) -> str:
    return f"{100 * one.mean:+.1f} ± {100 * one.half:.1f}"


def _each(values: Sequence[float]) -> str:
    return ", ".join(f"{100 * value:+.1f}" for value in values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    scores = json.loads((RunPaths(parser.parse_args().run_dir).report / "scores.json").read_text())
    print("\n".join(table(scores["members"])))
    print(f"\nSplit {scores['split']}, {scores['num_images']} images, {scores['num_classes']} classes.")


if __name__ == "__main__":
    main()
