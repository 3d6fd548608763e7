"""Times one member of the CIFAR-10 experiment from the command until its error is low enough, beside a plain loop.

Both train on 8,100 of 10,000 images, and look at test/ after each epoch; net, rates and epochs are the experiment's.
"""

import json
import shutil
import sys
import time
from pathlib import Path

from benchmarks import scripts
from benchmarks.orchestrator_share import first_line
from benchmarks.row import Measure, Row, Settings, Skipped, Spread, Wanted
from orchestrator.plan import StageRef
from orchestrator.run import RunPaths, read_ledger

# Either side gets there when the rate is first cut, after 24 epochs. Of a hundred images, 81 are trained on.
_ERROR, _EPOCHS, _TRAINED = 0.35, 32, 81


def class_folders(source: Path, root: Path) -> Path:
    """Makes train/ of 81 % of the source's train/, and val/ of all its test/."""
    if not (source / "test").is_dir():
        raise Skipped(f"{source} holds no test/ of class folders")
    for split, into in (("train", "train"), ("test", "val")):
        for number, path in enumerate(sorted((source / split).glob("*/*"))):
            if split == "train" and number % 100 >= _TRAINED:
                continue
            (root / into / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, root / into / path.parent.name / path.name)
    return root


def _ours(root: Path, folder: Path, seed: int) -> tuple[float, float]:
    """Returns the seconds until an epoch's error is low enough, from the command and from the first update."""
    launched = scripts.launch(
        folder, "experiment=cifar10", *scripts.first_members(1), f"datasets.target.root={root}",
        "datasets.target.dev_fraction=0", f"schedule.epochs={_EPOCHS}", f"seed={seed}",
    )  # fmt: skip
    paths = RunPaths(launched.run_dir)
    (ref,) = map(StageRef.parse, read_ledger(paths.ledger).stages)
    points = [json.loads(line) for line in paths.metrics(ref).read_text().splitlines()]
    errors = {point["time"]: point["metrics"].get("val/top1_error", 1.0) for point in points}
    low = next((at for at, error in errors.items() if error <= _ERROR), None)
    if low is None:
        raise RuntimeError(f"seed {seed}: the lowest error of {_EPOCHS} epochs was {min(errors.values()):.4f}")
    return low - launched.began, low - first_line(paths.log(ref))


def _peer(root: Path, folder: Path, seed: int, threads: int) -> tuple[float, float]:
    """Returns the same two of the plain loop, which ends there."""
    log = folder / f"peer-{seed}.log"
    words = ("--epochs", str(_EPOCHS), "--error", str(_ERROR), "--seed", str(seed), "--threads", str(threads))
    since = time.perf_counter()
    scripts.call((sys.executable, "-m", "benchmarks.peers.time_to_error", str(root), *words), log)
    taken = time.perf_counter() - since
    return taken, float(log.read_text().splitlines()[-1].split()[2])


def run(settings: Settings) -> tuple[Row, Row]:
    """Measures as many seeds as there are repeats, each once on either side, in turns."""
    if settings.cifar10 is None:
        raise Skipped("needs --cifar10 FOLDER with train/ and test/ in class folders at 32 pixels")
    scratch, seeds = settings.scratch, range(settings.repeats)
    root = class_folders(settings.cifar10, scratch / "images")
    sides = {
        "ours": lambda seed: _ours(root, scratch / f"ours-{seed}", seed),
        "peer": lambda seed: _peer(root, scratch, seed, settings.threads),
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for seed in seeds:
        for name in list(sides)[:: 1 if seed % 2 == 0 else -1]:
            taken[name].append(sides[name](seed))

    def row(number: int, what: str) -> Row:
        ours, peer = ([seconds[number] for seconds in taken[name]] for name in ("ours", "peer"))
        return Row(
            f"CIFAR-10 net of 80 seconds, one member, to {100 * _ERROR:g} % error: {what}", "s",
            Spread.of(ours).median, Spread.of(peer).median, None,
            Spread.of([other / one for one, other in zip(ours, peer, strict=True)]), Measure.times, Wanted(2.5),
            settings.repeats,
            f"{_EPOCHS} epochs, one seed a repeat; beside: a plain fp32 loop, {settings.threads} threads, in memory",
        )  # fmt: skip

    return row(1, "training"), row(0, "from the command")
