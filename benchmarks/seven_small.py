"""Times the tiny_imagenet experiment beside the plain script with the same nets; the orchestrator's share of it."""

import shutil
import time
from pathlib import Path

from benchmarks import scripts
from benchmarks.orchestrator_share import shares
from benchmarks.row import Measure, Row, Settings, Skipped, Spread, Wanted
from benchmarks.scripts import Placement
from benchmarks.whole_job import average, tuned

_PLACEMENTS = (Placement(2, 1, 0), Placement(2, 1, 1), Placement(1, 2, 1))
# The epochs of conf/experiment/tiny_imagenet.yaml.
BASE_EPOCHS, _PRETRAIN, _FINETUNE = 40, 28, 20


def need_images(settings: Settings) -> Path:
    if settings.tiny_imagenet is None:
        raise Skipped("give --tiny-imagenet FOLDER: train/, val/, test/ in class folders at 64 pixels, target-10.txt")
    return settings.tiny_imagenet


def epochs(whole: int, share: float) -> int:
    """Returns a share of an experiment's epochs, at least one."""
    return max(1, round(whole * share))


def overrides(root: Path) -> tuple[str, ...]:
    """Returns the overrides for the experiment on the images below `root`."""
    classes = root / "target-10.txt"
    roots = (f"datasets.target.root={root}", f"datasets.superset.root={root}")
    return ("experiment=tiny_imagenet", *roots, f"datasets.target.classes={classes}")


def _members(root: Path, folder: Path, share: float) -> list[scripts.Command]:
    """Returns the commands of seven plain scripts, the longest first."""
    pretrained = ("--convs", "6", "--pretrain-epochs", str(epochs(_PRETRAIN, share)), "--lr", "0.01")
    finetune, base = str(epochs(_FINETUNE, share)), str(epochs(BASE_EPOCHS, share))
    kinds = [(*pretrained, "--epochs", finetune)] * 2 + [("--epochs", base)] * 5
    return [
        scripts.plain(
            root, str(root / "target-10.txt"), "--he", "--seed", str(seed), *kind, "--predictions",
            str(folder / f"{seed}.npy"),
        )
        for seed, kind in enumerate(kinds)
    ]  # fmt: skip


def run(settings: Settings) -> tuple[Row, ...]:
    """Measures both sides from the class folders to the averaged submission on test."""
    root, share, scratch = need_images(settings), settings.epochs_share, settings.scratch
    (scratch / "tried").mkdir()
    placement = tuned(_members(root, scratch / "tried", 2 / BASE_EPOCHS)[-2:], _PLACEMENTS, scratch / "tried")
    shorter = (
        f"schedule.epochs={epochs(BASE_EPOCHS, share)}",
        f"ensemble.stages.pretrain.epochs={epochs(_PRETRAIN, share)}",
        f"ensemble.stages.finetune.epochs={epochs(_FINETUNE, share)}",
    )
    ours, peer, of_path, of_slots = [], [], [], []
    for number in range(settings.long_repeats):
        launched = scripts.launch(scratch / f"ours-{number}", *overrides(root), *shorter)
        ours.append(launched.seconds)
        path, slots = shares(launched)
        of_path.append(path)
        of_slots.append(slots)
        folder = scratch / f"peer-{number}"
        since = time.perf_counter()
        scripts.run_all(_members(root, folder, share), placement, folder)
        average(folder)
        peer.append(time.perf_counter() - since)
        shutil.rmtree(scratch / f"ours-{number}")
    ran = f"{100 * share:g} % of the epochs"
    wall = Spread.of(ours).median

    def share_row(name: str, values: list[float], wanted: Wanted | None) -> Row:
        spread = Spread.of(values)
        return Row(
            f"tiny_imagenet experiment: {name}", "s", wall * spread.median, wall, None, spread, Measure.share, wanted,
            settings.long_repeats, f"{ran}; beside: the whole wall clock",
        )  # fmt: skip

    return (
        Row(
            "tiny_imagenet experiment, seven small members", "s", wall, Spread.of(peer).median, None,
            Spread.of([other / one for one, other in zip(ours, peer, strict=True)]), Measure.times, Wanted(2.5),
            settings.long_repeats, f"{ran}; beside: the plain script seven times, {placement}",
        ),
        share_row("orchestrator's share, on the critical path", of_path, Wanted(0.05, at_least=False)),
        share_row("share of the slots' time that is no member's work, idle ends included", of_slots, None),
    )  # fmt: skip
