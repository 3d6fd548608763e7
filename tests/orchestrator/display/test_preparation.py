"""Progress of a preparation with its rate and time left, and the summary at its end."""

import io

import pytest
from pictures import noise
from rich.console import Console

from orchestrator.display.preparation import Pace, Watch, summary
from workers.data.store.preparation import PrepareProgress, prepare
from workers.data.store.store import open_store
from workers.settings.dataset import DatasetSettings, OnBad


class Clock:
    """Seconds that pass when told to."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


def play(watch, clock, seconds_each):
    """A hundred images hashed in no time, then decoded one by one."""
    for done in range(1, 101):
        watch("target", PrepareProgress("folder", "read", done, 100))
    for done in range(1, 101):
        clock.now_s += seconds_each
        watch("target", PrepareProgress("folder", "pack", done, 100))
    watch.close()


def test_pace_is_that_of_the_last_half_minute():
    pace = Pace()
    pace.add(0.0, 0)
    assert pace.images_per_second() is None
    pace.add(1.0, 1000)
    assert pace.images_per_second() == 1000
    for second in range(2, 60):
        pace.add(float(second), 1000 + 10 * second)
    assert pace.images_per_second() == pytest.approx(10)


def test_watch_elsewhere_writes_a_line_now_and_then_with_rate_and_time_left():
    clock, stream = Clock(), io.StringIO()
    play(Watch(stream, clock), clock, seconds_each=0.25)
    assert stream.getvalue().splitlines() == [
        "datasets.target: reading images, 100 of 100",
        "datasets.target: packing images, 41 of 100, 4 images/s, 15 s left",
        "datasets.target: packing images, 81 of 100, 4 images/s, 5 s left",
        "datasets.target: packing images, 100 of 100, 4 images/s",
    ]


def test_watch_on_a_terminal_draws_a_bar_for_each_phase_and_leaves_it():
    clock, stream = Clock(), io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, color_system=None)
    play(Watch(stream, clock, console), clock, seconds_each=0.25)
    last = next(line for line in reversed(stream.getvalue().splitlines()) if "packing" in line)
    assert "target: packing" in last and "100/100" in last and "4 images/s" in last
    assert "target: reading" in stream.getvalue()
    assert "s left" in stream.getvalue()


def summarised(folder, files):
    for name, content in files.items():
        path = folder / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content) if isinstance(content, bytes) else content.save(path)
    settings = DatasetSettings(root=str(folder / "root"), size=8, on_bad=OnBad.skip)
    return list(summary("target", open_store(prepare(settings, folder / "stores"))))


def images(number, mode):
    return {
        f"train/{'ab'[seed % 2]}/{mode}{seed}.png": noise(seed + number, 9, 9).convert(mode) for seed in range(number)
    }


def test_summary_tells_counts_decisions_what_is_left_out_and_where_it_lies(tmp_path):
    bad = {f"train/a/bad{index:02d}.png": f"not an image {index}".encode() for index in range(12)}
    test = {"test/t.png": b"neither", "test/u.png": noise(99, 9, 9)}
    lines = summarised(tmp_path, {**images(30, "RGB"), **images(4, "L"), **bad, **test})
    text = "\n".join(lines)
    assert lines[0].startswith("target: 2 classes at 8 px; ")
    assert lines[0].endswith("2 test")
    (store,) = (tmp_path / "stores").iterdir()
    assert f"  folder {store}" in lines
    assert any(line.startswith("  digest ") and len(line.split()[-1]) == 64 for line in lines)
    assert any(line.startswith("  on disk ") and line.endswith(" KB") for line in lines)
    assert "  4 images: grey, its level in all three channels" in lines
    assert "  1 of test unreadable: their rows are kept, with uniform probabilities" in lines
    assert text.count("left out of") == 10
    assert "(not an image)" in text
    assert "  and 2 more left out" in lines
    assert lines[-1] == f"  every file by name: {store / 'manifest.json'}"


def test_summary_names_classes_that_no_held_out_image_shows(tmp_path):
    lines = summarised(tmp_path, {**images(30, "RGB"), "train/lonely/one.png": noise(99, 9, 9)})
    for split in ("dev", "val"):
        assert f"  1 class without an image in {split}, so it says nothing of them: lonely" in lines


def test_summary_of_plain_images_is_short(tmp_path):
    assert [line.split()[0] for line in summarised(tmp_path, images(30, "RGB"))] == [
        "target:",
        "folder",
        "digest",
        "on",
    ]
