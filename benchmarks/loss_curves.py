"""Plots training loss by update in one picture; members named `<name>-s<seed>` differ by seed and share a colour.

    python -m benchmarks.loss_curves RUN_DIR … --out FILE.png

Also prints, for each name, the final loss and the number of updates until it was first a tenth below ln(classes).
"""

import argparse
import math
import statistics
from dataclasses import dataclass
from pathlib import Path

from orchestrator.plan import plan_from_json
from orchestrator.run import Follower, RunPaths, read_record


@dataclass(frozen=True)
class Course:
    """One stage's training loss by update, as the mean since the epoch's start."""

    name: str
    chance: float
    steps: tuple[int, ...]
    losses: tuple[float, ...]

    @property
    def group(self) -> str:
        return self.name.rpartition("-s")[0] or self.name

    @property
    def left_chance(self) -> int | None:
        """Returns the first update at which the loss was a tenth below ln(classes)."""
        return next((s for s, loss in zip(self.steps, self.losses, strict=True) if loss < 0.9 * self.chance), None)


def courses(run_dir: Path) -> list[Course]:
    """Returns the course of every member's last stage, as far as it was trained."""
    paths = RunPaths(run_dir)
    plan = plan_from_json(read_record(paths).plan)
    found = []
    for member in plan.members:
        stage = plan.last_stage(member)
        points = [point for point in Follower(paths.metrics(stage.ref)).read() if "train/loss" in point.metrics]
        steps = tuple(point.step for point in points)
        losses = tuple(point.metrics["train/loss"] for point in points)
        found.append(Course(member, math.log(stage.num_classes), steps, losses))
    return found


def draw(found: list[Course], out: Path) -> None:
    """Writes the picture; its dotted line is ln(classes)."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 4.0), dpi=110)
    groups = list(dict.fromkeys(course.group for course in found))
    for course in found:
        colour = f"C{groups.index(course.group)}"
        first = all(other.group != course.group for other in found[: found.index(course)])
        axes.plot(course.steps, course.losses, color=colour, lw=1.3, label=course.group if first else None)
    axes.axhline(found[0].chance, color="black", lw=0.8, ls=":")
    axes.set_ylim(top=1.3 * found[0].chance, bottom=0)
    axes.set_xlabel("updates")
    axes.set_ylabel("training loss")
    axes.legend(frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(out)


def summary(found: list[Course]) -> list[str]:
    """Returns lines of markdown, one per name."""
    lines = ["| name | seeds | updates | loss at the end | left ln(classes) after updates |", "|---|---|---|---|---|"]
    for group in dict.fromkeys(course.group for course in found):
        mine = [course for course in found if course.group == group and course.losses]
        ends = ", ".join(f"{course.losses[-1]:.2f}" for course in mine)
        left = ", ".join("never" if course.left_chance is None else str(course.left_chance) for course in mine)
        updates = statistics.median(course.steps[-1] for course in mine)
        lines.append(f"| {group} | {len(mine)} | {updates:g} | {ends} | {left} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, nargs="+")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = [course for run_dir in arguments.run_dir for course in courses(run_dir)]
    if arguments.out is not None:
        draw(found, arguments.out)
    print("\n".join(summary(found)))


if __name__ == "__main__":
    main()
