"""Measures the memory of a launch with one member, beside a plain process that trains the same net on a ready batch.

The plain process has channels_last, bf16 autocast and the fused optimizer. Pages of files that a process maps, such as
the prepared images and libraries, count as resident but can be given back at once, so both figures are shown.
"""

import sys
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from benchmarks import scripts, synthetic
from benchmarks.row import Measure, Row, Settings, Spread, Wanted

_LOOK_EVERY_S = 0.02
_UPDATES, _NUM_CLASSES = 12, 40
_PLAIN = """
import sys
from benchmarks.peers.step import tuned
class Turns:
    def play(self, work):
        for _ in range(int(sys.argv[4])):
            work()
tuned(sys.argv[1], int(sys.argv[5]), int(sys.argv[2]), int(sys.argv[3]), Turns())
"""


@dataclass(frozen=True)
class _Case:
    title: str
    net: str
    side: int
    batch: int
    words: tuple[str, ...]


def _photos(name: str, side: int, input_size: int, batch: int) -> tuple[str, ...]:
    return (
        "experiment=photos", "augmentation=alexnet", f"model.name={name}", f"datasets.target.size={side}",
        f"model.input_size={input_size}", f"optimizer.batch_size={batch}",
    )  # fmt: skip


_CASES = (
    _Case("resnet18, 64 px, batch 64", "resnet18", 73, 64, _photos("torchvision/resnet18", 73, 64, 64)),
    _Case("resnet18, 224 px, batch 32", "resnet18_224", 256, 32, _photos("torchvision/resnet18", 256, 224, 32)),
    _Case("mobilenet_v2, 224 px, batch 32", "mobilenet_v2", 256, 32, _photos("torchvision/mobilenet_v2", 256, 224, 32)),
    _Case(
        "small AlexNet, 56 px, batch 64", "small", 64, 64,
        ("experiment=ilsvrc2012", "ensemble=five", "~ensemble.stages", "model=alexnet_64", "datasets.target.size=64",
         "submission=labels", "optimizer.batch_size=64"),
    ),
)  # fmt: skip


@dataclass
class _Peak:
    """The most memory of a process, in MB: resident, and without the pages of mapped files."""

    resident: float = 0.0
    own: float = 0.0


class _Watch:
    """Looks at all children of this process while a command runs; `others` is the most of all but members, in MB."""

    def __init__(self) -> None:
        self.peaks: dict[str, _Peak] = defaultdict(_Peak)
        self.others = 0.0
        self._ended = threading.Event()

    def during(self, work: Callable[[], object]) -> "_Watch":
        looking = threading.Thread(target=self._look)
        looking.start()
        try:
            work()
        finally:
            self._ended.set()
            looking.join()
        return self

    def _look(self) -> None:
        while not self._ended.wait(_LOOK_EVERY_S):
            others = 0.0
            for process in psutil.Process().children(recursive=True):
                try:
                    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                    name = process.name()
                except (OSError, psutil.Error):
                    continue
                found = {line.split(":")[0]: int(line.split()[1]) * 1024 / 1e6 for line in lines if line.endswith("kB")}
                own = found.get("RssAnon", 0.0) + found.get("RssShmem", 0.0)
                peak = self.peaks["member" if name.startswith("ray::") else name]
                peak.resident = max(peak.resident, found.get("VmHWM", 0.0))
                peak.own = max(peak.own, own)
                others += 0.0 if name.startswith("ray::") else own
            self.others = max(self.others, others)


def run(settings: Settings) -> tuple[Row, ...]:
    """Measures each case once; memory hardly varies."""
    rows = []
    for number, case in enumerate(_CASES):
        folder = settings.scratch / str(number)
        num_images = _UPDATES * case.batch
        root = synthetic.class_folders(folder / "images", num_images, _NUM_CLASSES, case.side, num_test=10)
        words = (
            *case.words, *scripts.first_members(1), f"datasets.target.root={root}", "datasets.target.dev_fraction=0",
            f"cluster.cpus_per_member={settings.threads}", "schedule.epochs=1",
        )  # fmt: skip
        launch = _Watch().during(partial(scripts.launch, folder / "launch", *words))
        given = (case.net, str(case.batch), str(settings.threads), str(_UPDATES), str(_NUM_CLASSES))
        plain = _Watch().during(partial(scripts.call, (sys.executable, "-c", _PLAIN, *given), folder / "plain.log"))
        ours, (peer,) = launch.peaks["member"], plain.peaks.values()
        sides = (("resident", ours.resident, peer.resident), ("without mapped files", ours.own, peer.own))
        note = f"all other processes of the launch: {launch.others:.0f} MB without mapped files"
        rows += [
            Row(
                f"peak memory of an actor, {what}: {case.title}", "MB", one, other, None, Spread.of([one / other]),
                Measure.times, Wanted(1.1, at_least=False), 1, note,
            )
            for what, one, other in sides
        ]  # fmt: skip
    return tuple(rows)
