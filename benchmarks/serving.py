"""Times `septet serve` with eight clients at a time beside a plain loop over the same images and nets, both in fp32."""

import http.client
import queue
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

from benchmarks import scripts, synthetic
from benchmarks.peers import serving as peers
from benchmarks.row import Measure, Row, Settings, Spread, Wanted
from benchmarks.turns import Turns, ratios, take_turns
from benchmarks.whole_job import SEVEN_ON_TARGET

_IMAGES, _CLASSES, _SIDE, _CLIENTS = 200, 10, 64, 8
_CONVS = (5, 5, 5, 5, 5, 6, 6)
_JPEG = {"content-type": "image/jpeg"}


def _clients(port: int, files: Sequence[Path], turns: Turns) -> None:
    """Asks for each file once, eight at a time over connections that stay open."""

    def client(waiting: "queue.SimpleQueue[Path]") -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        with suppress(queue.Empty):
            while True:
                connection.request("POST", "/predict", waiting.get_nowait().read_bytes(), _JPEG)
                answer = connection.getresponse()
                assert answer.read() and answer.status == 200
        connection.close()

    def work() -> None:
        waiting: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for file in files:
            waiting.put(file)
        with ThreadPoolExecutor(_CLIENTS) as pool:
            list(pool.map(client, [waiting] * _CLIENTS))

    turns.play(work)


def run(settings: Settings) -> tuple[Row, ...]:
    """Serves seven small nets, trained for an epoch; the peer's have the same layers, and its threads are tried."""
    root = synthetic.class_folders(settings.scratch / "images", 200, _CLASSES, _SIDE, _IMAGES)
    files = sorted((root / "test").iterdir())
    overrides = ("experiment=tiny_imagenet", *SEVEN_ON_TARGET, f"datasets.target.root={root}", "schedule.epochs=1")
    fp32 = ("datasets.target.classes=null", "precision=fp32")
    run_dir = scripts.launch(settings.scratch / "launched", *overrides, *fp32).run_dir
    words = [str(Path(sys.executable).with_name("septet")), "serve", str(run_dir), "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=scripts.environment()) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline().rsplit(":", 1)[1])
        contestants = {"ours": partial(_clients, port, files)} | {
            str(threads): partial(peers.loop, files, _SIDE, _CONVS, _CLASSES, threads)
            for threads in sorted({1, settings.threads})
        }
        readings = take_turns(contestants, settings.repeats)
        server.terminate()
    speed = {name: _IMAGES / Spread.of(each).median for name, each in readings.items()}
    best = max((name for name in speed if name != "ours"), key=speed.__getitem__)
    return (
        Row(
            name="seven small nets served to eight clients, ten crops, fp32",
            unit="images/s",
            ours=speed["ours"],
            peer=speed[best],
            limit=None,
            ratio=Spread.of(ratios(readings, best, "ours")),
            measure=Measure.times,
            wanted=Wanted(1.5),
            repeats=settings.repeats,
            note=f"beside: a loop that calls the seven nets one after another, {best} of {settings.threads} threads",
        ),
    )
