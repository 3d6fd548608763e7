"""Times the whole job on full-resolution photographs: seven members, one epoch, ten-crop, average, file."""

import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import scripts
from benchmarks.row import Measure, Row, Settings, Skipped, Spread, Wanted
from benchmarks.scripts import Placement

SIX_CONVS = "{model: {num_convs: 6}, stages: {train: {dataset: target}}}"
# Seven members that train on the target only, because the peers support no pre-training.
SEVEN_ON_TARGET = (
    "ensemble=five",
    "~ensemble.stages",
    f"+ensemble.members.six1={SIX_CONVS}",
    f"+ensemble.members.six2={SIX_CONVS}",
)
# The plain script's words for each of seven members: AlexNets of the paper, or ResNet-18s.
_ALEXNETS = [("--net", "full_size", "--convs", str(convs), "--batch-size", "128") for convs in (5, 5, 5, 5, 5, 6, 6)]
_RESNETS = [("--net", "resnet18_224", "--batch-size", "32")] * 7
_FLAGS = ("--flags",)
_PLACEMENTS = (Placement(1, 2, 0), Placement(1, 2, 2), Placement(2, 1, 0), Placement(2, 1, 1))
_PHOTOGRAPHS, _COPIES, _VAL = 200, 5, 20


def photographs(source: Path, root: Path, copies: int) -> Path:
    """Makes class folders of 200 photographs, ten per class: each `copies` times in train, once in test, 20 in val."""
    found = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".jpeg", ".jpg"))[:_PHOTOGRAPHS]
    if len(found) < _PHOTOGRAPHS:
        raise Skipped(f"{source} holds {len(found)} JPEG files; {_PHOTOGRAPHS} are needed")
    for index, path in enumerate(found):
        name = f"c{index % 20:02d}"
        places = [root / "train" / name / f"{path.stem}-{copy}.JPEG" for copy in range(copies)]
        places += [root / "test" / path.name, *([root / "val" / name / path.name] if index < _VAL else [])]
        for place in places:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(commented(path.read_bytes(), str(place.relative_to(root))))
    return root


def commented(jpeg: bytes, comment: str) -> bytes:
    """Writes the same picture as another file, because Septet leaves files out of train that val or test holds."""
    segment = comment.encode()
    return jpeg[:2] + b"\xff\xfe" + (len(segment) + 2).to_bytes(2, "big") + segment + jpeg[2:]


def _members(root: Path, folder: Path, nets: Sequence[Sequence[str]]) -> list[scripts.Command]:
    """Returns the commands of the plain scripts of `nets`."""
    shared = ("--epochs", "1", "--lr", "0.01", "--no-dev")
    return [
        scripts.plain(root, *words, *shared, "--seed", str(seed), "--predictions", str(folder / f"{seed}.npy"))
        for seed, words in enumerate(nets)
    ]


def average(folder: Path) -> None:
    """Averages every member's predictions in `folder` into its submission.csv."""
    predictions = sorted(map(str, folder.glob("*.npy")))
    script = (sys.executable, "-m", "benchmarks.peers.average", str(folder / "submission.csv"))
    scripts.call([*script, *predictions], folder / "average.log")


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def tuned(commands: Sequence[scripts.Command], placements: Sequence[Placement], folder: Path) -> Placement:
    """Returns the fastest placement for a few short members."""
    trials = {
        str(placement): lambda placement=placement: scripts.run_all(commands, placement, folder)
        for placement in placements
    }
    best = scripts.fastest_placement(trials, say)
    return next(placement for placement in placements if str(placement) == best)


def alexnets(settings: Settings) -> Row:
    """Measures the paper's seven at full size."""
    ours = ("experiment=ilsvrc2012", *SEVEN_ON_TARGET)
    return _measure("seven full-size members", ours, _ALEXNETS, "the plain script", Wanted(3.7), settings)


def resnets(settings: Settings) -> tuple[Row, ...]:
    """Measures seven ResNet-18s of torchvision beside the script in fp32, and with all that PyTorch has by a flag."""
    more = (f"+ensemble.members.base{number}={{stages: {{train: {{dataset: target}}}}}}" for number in (6, 7))
    ours = (
        "experiment=photos", *more, "augmentation=alexnet", "datasets.target.size=256", "datasets.target.keep=centre",
        "model.input_size=224", "optimizer.batch_size=32", "predict.crops=ten",
    )  # fmt: skip
    tuned = [(*words, *_FLAGS) for words in _RESNETS]
    title = "seven ResNet-18s"
    with_flags = "the plain script with channels_last, bf16 autocast, fused SGD"
    return (
        _measure(title, ours, _RESNETS, "the plain script", Wanted(2.0), settings),
        _measure(title, ours, tuned, with_flags, None, settings),
    )


def _measure(
    title: str,
    overrides: Sequence[str],
    nets: Sequence[Sequence[str]],
    beside: str,
    wanted: Wanted | None,
    settings: Settings,
) -> Row:
    """Measures 1,000 photographs to train on and 200 to predict, both sides from files to file."""
    if settings.images is None:
        raise Skipped("needs --images FOLDER with two hundred or more full-resolution JPEG photographs")
    scratch = Path(tempfile.mkdtemp(dir=settings.scratch))
    trial = photographs(settings.images, scratch / "trial", copies=1)
    placement = tuned(_members(trial, scratch / "tried", nets[:2]), _PLACEMENTS, scratch / "tried")
    root = photographs(settings.images, scratch / "photographs", copies=_COPIES)
    words = (
        *overrides, f"datasets.target.root={root}", "datasets.target.dev_fraction=0", "schedule.epochs=1",
        "submission=labels",
    )  # fmt: skip
    ours, peer = [], []
    for number in range(settings.long_repeats):
        ours.append(scripts.launch(scratch / f"ours-{number}", *words).seconds)
        folder = scratch / f"peer-{number}"
        since = time.perf_counter()
        scripts.run_all(_members(root, folder, nets), placement, folder)
        average(folder)
        peer.append(time.perf_counter() - since)
        shutil.rmtree(scratch / f"ours-{number}")
    return Row(
        name=f"{title}, one epoch on 1,000 photographs, 200 ten-cropped, averaged, written",
        unit="s",
        ours=Spread.of(ours).median,
        peer=Spread.of(peer).median,
        limit=None,
        ratio=Spread.of([other / one for one, other in zip(ours, peer, strict=True)]),
        measure=Measure.times,
        wanted=wanted,
        repeats=settings.long_repeats,
        note=f"beside: {beside}, seven times, {placement}",
    )
