"""Prints the paper's table over several runs of one experiment: rows by seed, mean, spread, gain over the first row.

    python -m benchmarks.seeds RUN_DIR RUN_DIR …

Prints markdown from each run's report/scores.json. The interval is that of the mean over seeds, from the spread between
them (Student's t). All seeds share one split; its binomial standard error is printed below the table.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from orchestrator.run import RunPaths

# Student's t for a two-sided 95 % interval, by degrees of freedom.
_T95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}
FIGURES = ("top1_error", "top5_error", "nll")


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def interval(values: list[float]) -> float:
    """Returns half the width of the 95 % interval of the mean of `values`."""
    return _T95[min(len(values) - 1, 9)] * statistics.stdev(values) / len(values) ** 0.5


def table(scores: list[dict[str, Any]]) -> list[str]:
    """Returns lines of markdown, one per row of the paper's table."""
    numbers = " | ".join(str(number) for number in range(len(scores)))
    lines = [
        f"| row | top-1 error %, run {numbers} | mean ± 95 % | gain over the first | top-5 % | NLL |",
        "|---" * (len(scores) + 5) + "|",
    ]
    first = statistics.mean(one["rows"][0]["top1_error"] for one in scores)
    for number, row in enumerate(scores[0]["rows"]):
        figures = {name: [one["rows"][number][name] for one in scores] for name in FIGURES}
        top1 = figures["top1_error"]
        mean = statistics.mean(top1)
        cells = [
            row["name"],
            *(percent(value) for value in top1),
            f"{percent(mean)} ± {percent(interval(top1))}" if len(top1) > 1 else percent(mean),
            f"{100 * (1 - mean / first):.1f} %",
            percent(statistics.mean(figures["top5_error"])),
            f"{statistics.mean(figures['nll']):.3f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, nargs="+")
    runs = [RunPaths(run_dir) for run_dir in parser.parse_args().run_dir]
    scores = [json.loads((run.report / "scores.json").read_text()) for run in runs]
    print("\n".join(table(scores)))
    first = scores[0]["rows"][0]["top1_error"]
    count = scores[0]["num_images"]
    error = percent((first * (1 - first) / count) ** 0.5)
    print(f"\nSplit {scores[0]['split']}, {count} images: one binomial standard error is {error} points.")
    members = {
        f"{run.root.name}/{name}": one["top1_error"]
        for run, s in zip(runs, scores, strict=True)
        for name, one in s["members"].items()
    }
    worst = max(members, key=lambda name: members[name])
    print(f"{len(members)} members, worst {worst} with {percent(members[worst])} %.")


if __name__ == "__main__":
    main()
