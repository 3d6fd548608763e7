"""Times seven small members trained on the target only, from folders to a file, beside TorchEnsemble and Ray Tune."""

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import scripts
from benchmarks.row import Measure, Row, Settings, Spread, Wanted
from benchmarks.seven_small import BASE_EPOCHS, epochs, need_images, overrides
from benchmarks.whole_job import SEVEN_ON_TARGET, average, say

# A peer's run. It takes words to add to its command line, the number of epochs, and an empty folder.
_Peer = Callable[[Sequence[str], int, Path], None]


def torch_ensemble(settings: Settings) -> Row:
    """Measures five and two members by VotingClassifier: joblib or threads, files or decoded pixels in memory."""
    root = need_images(settings)

    def peer(words: Sequence[str], num_epochs: int, folder: Path) -> None:
        script = (sys.executable, "-m", "benchmarks.peers.torch_ensemble", str(root), str(root / "target-10.txt"))
        scripts.call((*script, "submission.csv", "--epochs", str(num_epochs), *words), folder / "peer.log")

    options = (
        ("--at-once", "1", "--threads", "2"),
        ("--at-once", "2"),
        ("--at-once", "1", "--threads", "2", "--in-memory"),
        ("--at-once", "2", "--in-memory"),
    )
    return _beside(settings, root, "TorchEnsemble's VotingClassifier", peer, options, Wanted(3.5))


def ray_tune(settings: Settings) -> Row:
    """Measures seven trials of the plain script's training function."""
    root = need_images(settings)

    def peer(words: Sequence[str], num_epochs: int, folder: Path) -> None:
        script = (sys.executable, "-m", "benchmarks.peers.ray_tune", str(root), str(root / "target-10.txt"))
        scripts.call((*script, str(folder), "--epochs", str(num_epochs), *words), folder / "peer.log")
        average(folder)

    options = (("--threads", "1"), ("--threads", "1", "--workers", "1"), ("--threads", "2"))
    return _beside(settings, root, "seven trials of Ray Tune", peer, options, Wanted(4.5))


def _beside(
    settings: Settings, root: Path, title: str, peer: _Peer, options: Sequence[Sequence[str]], wanted: Wanted
) -> Row:
    """Measures ours and the peer in turns; the peer uses whichever of `options` is fastest over one epoch."""

    def seconds(words: Sequence[str], num_epochs: int, name: str) -> float:
        folder = settings.scratch / name
        folder.mkdir()
        since = time.perf_counter()
        peer(words, num_epochs, folder)
        return time.perf_counter() - since

    trials = {
        " ".join(words): lambda words=words, number=number: seconds(words, 1, f"tried-{number}")
        for number, words in enumerate(options)
    }
    best = scripts.fastest_placement(trials, say)
    num_epochs = epochs(BASE_EPOCHS, settings.epochs_share)
    # Neither peer holds images out of train, so ours does not either.
    alike = (*overrides(root), *SEVEN_ON_TARGET, "datasets.target.dev_fraction=0")
    ours, theirs = [], []
    for number in range(settings.long_repeats):
        folder = settings.scratch / f"ours-{number}"
        ours.append(scripts.launch(folder, *alike, f"schedule.epochs={num_epochs}").seconds)
        theirs.append(seconds(best.split(), num_epochs, f"peer-{number}"))
        shutil.rmtree(folder)
    return Row(
        name=f"seven small members on the target beside {title}",
        unit="s",
        ours=Spread.of(ours).median,
        peer=Spread.of(theirs).median,
        limit=None,
        ratio=Spread.of([other / one for one, other in zip(ours, theirs, strict=True)]),
        measure=Measure.times,
        wanted=wanted,
        repeats=settings.long_repeats,
        note=f"{num_epochs} epochs; peer with {best}, best of {len(options)} tried",
    )
