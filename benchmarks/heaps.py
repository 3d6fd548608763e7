"""Times steps on a thread, as an actor's are, where glibc gives threads heaps of their own and where all have one.

    python -m benchmarks.heaps [--rounds 5] [--threads 1] [CASE …]

Cases are `full` and `small`, the AlexNets at 224 and 56 pixels, `resnet18` at 64 and `resnet18_224`. Each turn is a
process of its own; the order is reversed from round to round. It prints the median and range of the ratio, the pages
that the kernel mapped for each update, and the memory without mapped files.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks import synthetic
from benchmarks.numerics import fastest
from benchmarks.row import Spread
from workers.errors import Stopped
from workers.settings import ModelSettings
from workers.training import run_stage

_RESNET = "torchvision/resnet18"
# The net, its classes, the side of stored images, the batch, and the updates that count.
_CASES = {
    "full": (synthetic.FULL_SIZE, 1000, 256, 128, 4),
    "small": (synthetic.SMALL, 40, 64, 64, 60),
    "resnet18": (ModelSettings(name=_RESNET, input_size=64), 40, 73, 64, 12),
    "resnet18_224": (ModelSettings(name=_RESNET, input_size=224), 40, 256, 32, 8),
}
_WARM_UP = 2
_HEAPS = {"own": {}, "one": {"MALLOC_ARENA_MAX": "1"}}


def _turn(case: str, store: Path, scratch: Path, threads: int) -> dict[str, float]:
    """Trains on a thread and returns ms and pages an update, and MB."""
    model, _, _, batch, updates = _CASES[case]
    spec = synthetic.stage(store, scratch / "member", model, batch, fastest(threads))
    seen: list[tuple[float, int]] = []

    def should_stop() -> bool:
        seen.append((time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt))
        return len(seen) > _WARM_UP + updates

    def work() -> None:
        with suppress(Stopped):
            run_stage(spec, should_stop)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    (began, before), (ended, after) = seen[_WARM_UP], seen[_WARM_UP + updates]
    lines = Path("/proc/self/status").read_text().splitlines()
    own = next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("RssAnon:"))
    return {"ms": 1000 * (ended - began) / updates, "pages": (after - before) / updates, "mb": own}


def compare(case: str, rounds: int, threads: int) -> str:
    """Returns a line of markdown."""
    _, num_classes, side, batch, updates = _CASES[case]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in _HEAPS}
    with tempfile.TemporaryDirectory(prefix="septet-heaps-") as scratch:
        store = synthetic.store(Path(scratch), (updates + 4) * batch, num_classes, side)
        for number in range(rounds):
            for name in list(_HEAPS)[:: 1 if number % 2 == 0 else -1]:
                with tempfile.TemporaryDirectory(dir=scratch) as folder:
                    words = (sys.executable, "-m", "benchmarks.heaps", "--turn", str(store), folder)
                    said = subprocess.run(
                        [*words, "--threads", str(threads), case],
                        env={**os.environ, **_HEAPS[name]}, check=True, stdout=subprocess.PIPE, text=True,
                    ).stdout  # fmt: skip
                found[name].append(json.loads(said.splitlines()[-1]))
    ratio = Spread.of([own["ms"] / one["ms"] for own, one in zip(*found.values(), strict=True)])
    medians = {name: {what: Spread.of([turn[what] for turn in turns]).median for what in turns[0]}
               for name, turns in found.items()}  # fmt: skip
    cells = [f"{each[what]:,.{digits}f}" for what, digits in (("ms", 1), ("pages", 0), ("mb", 0))
             for each in medians.values()]  # fmt: skip
    return f"| {case} | {' | '.join(cells)} | {ratio.median:.2f} × ({ratio.low:.2f} × to {ratio.high:.2f} ×) |"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(_CASES)} (default: all)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turn", nargs=2, type=Path, metavar=("STORE", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.turn:
        store, folder = given.turn
        print(json.dumps(_turn(given.cases[0], store, folder, given.threads)))
        return
    print("| case | ms, own heaps | ms, one | pages, own heaps | pages, one | MB, own heaps | MB, one | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for case in given.cases or _CASES:
        print(compare(case, given.rounds, given.threads), flush=True)


if __name__ == "__main__":
    main()
