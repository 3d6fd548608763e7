"""Measures what part of an epoch a member's evaluations and checkpoints take.

    python -m benchmarks.epoch_share ROOT [--threads 1] [--epochs 5] [OVERRIDE …]

ROOT has class folders at 64 pixels with `train/`, `val/`, `test/` and `target-10.txt`; the member is the first of the
tiny_imagenet experiment. The first epoch, which warms up, does not count.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.numerics import fastest
from benchmarks.row import Spread
from orchestrator.config import TARGET, compose
from orchestrator.inputs import prepare_all, survey_all
from orchestrator.plan import make_plan
from workers.protocol import StageSpec
from workers.training import evaluation, loop, run_stage, saver, stage as of_stage


def shares(root: Path, num_epochs: int, threads: int, overrides: Sequence[str]) -> dict[str, Spread]:
    """Returns the seconds of an epoch, and of evaluation and checkpoints in it, in the loop and beside it."""
    words = [f"datasets.target.root={root}", f"datasets.target.classes={root / 'target-10.txt'}", "~datasets.superset"]
    config = compose(["experiment=tiny_imagenet", "ensemble=five", *words, f"schedule.epochs={num_epochs}", *overrides])
    first = make_plan(config, survey_all(config)).stages[0]
    store, spent, ends = prepare_all(config, lambda *_: None)[TARGET], dict[str, float](), list[dict[str, float]]()

    def timed(what: str, work: Callable[..., Any]) -> Callable[..., Any]:
        spent[what] = 0.0

        def run(*given: Any, **named: Any) -> Any:
            since = time.perf_counter()
            try:
                return work(*given, **named)
            finally:
                spent[what] += time.perf_counter() - since
                if what == "end":
                    ends.append({**spent, "epoch": time.perf_counter()})

        return run

    with (
        tempfile.TemporaryDirectory(prefix="septet-share-") as scratch,
        patch.object(of_stage, "evaluate", timed("evaluation", evaluation.evaluate)),
        patch.object(saver.Saver, "after_update", timed("checkpoints, loop", saver.Saver.after_update)),
        patch.object(saver.Saver, "_commit", timed("checkpoints, thread", saver.Saver._commit)),
        patch.object(loop, "_end_epoch", timed("end", loop._end_epoch)),
    ):
        spec = StageSpec(
            member="member", stage="train", seed=first.seed, recipe=first.recipe, store=store.path,
            stage_dir=Path(scratch) / "member" / "train", init_dir=None, numerics=fastest(threads),
            checkpoint_updates=config.checkpoint_updates, keep=config.predict.checkpoint, stage_hash="benchmark",
        )  # fmt: skip
        run_stage(spec, lambda: False)
    pairs = list(itertools.pairwise(ends))
    names = [name for name in ends[0] if name != "end"]
    return {name: Spread.of([later[name] - before[name] for before, later in pairs]) for name in names}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="ROOT")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE")
    given = parser.parse_args(argv)
    found = shares(given.root.absolute(), given.epochs, given.threads, given.overrides)
    whole = found["epoch"].median
    for name, one in found.items():
        print(f"{name}: {one.median:.4f} s ({one.low:.4f} to {one.high:.4f}), {one.median / whole:.2%} of an epoch")


if __name__ == "__main__":
    main()
