"""The page in a browser: at three widths, in light, dark and on paper, nothing is cut and all can be read."""

from pathlib import Path

import pytest
from browser import Browser, open_browser
from whole_run import MEAN, Run, build_run, finish

from orchestrator.config.schema import Calibrator, CombineConfig, SubmissionConfig
from orchestrator.report.page import render
from orchestrator.report.sections import Card, Fact, Guess, Link, Section, Table

CHECK = (Path(__file__).parents[2] / "shared" / "page_check.js").read_text()
# A sheet of A4 between its margins is 720 pixels wide.
LOOKS = [*((width, look) for width in (1280, 768, 360) for look in ("light", "dark")), (720, "paper")]
PIXEL = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' width='8' height='8'/%3E"
LONG = "n02123045_tabby_tabby_cat_with_a_name_that_has_no_end_and_no_space"


def complaints(browser: Browser, page: Path, *looks: tuple[int, str]) -> dict[tuple[int, str], list[str]]:
    """What is wrong with a page in each look, which is a width with light, dark or paper."""
    browser.show(page)
    found = {}
    for width, look in looks:
        kind = {"dark": look != "light", "paper": look == "paper"}
        browser.look(width, **kind)
        # Only what is inside the window has elements at its points.
        browser.look(width, browser.evaluate("document.documentElement.scrollHeight") + 10, **kind)
        found[width, look] = browser.evaluate(CHECK)
    return {look: wrong for look, wrong in found.items() if wrong}


def small_page(word: str) -> str:
    guesses = (Guess(word, 0.98, right=True), Guess("dog", 0.02))
    card = Card(PIXEL, "an image", (f"{word}.jpg",), guesses, (Card(PIXEL, "a neighbour", (word,)),) * 3)
    wide = Table(("", *(f"column {number}" for number in range(7))), ((word, *["-12.34 points (-13.1 to +0.2)"] * 7),))
    texts = Table(("", "value", "members"), ((word, word, word),), num_texts=3)
    facts = (Fact("error", "50.00 %", "95 % interval"), Fact("file", Link(f"{word}.csv", "../a.csv"))) * 3
    details = (Fact("command", f"septet launch experiment={word}"),)
    first = Section("first", "First", tables=(wide, texts), notes=("LOOKS: many",))
    second = Section("second", "Second", cards=(card,) * 5, facts=facts, details=details)
    return render(f"{word}: an ensemble", "2 members", (first, second), {})


def test_small_page_is_whole_and_readable_and_its_first_stop_skips_the_contents(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(small_page(LONG))
    with open_browser() as browser:
        assert complaints(browser, page, (1280, "light"), (360, "dark")) == {}
        browser.press("Tab")
        stop = "[document.activeElement.className, getComputedStyle(document.activeElement).outlineStyle]"
        assert browser.evaluate(stop) == ["skip", "solid"]
        browser.press("Enter")
        assert browser.evaluate("document.activeElement.id") == "parts"
        # The check finds what it is there for.
        wrong = '<p style="color:#999;width:200vw">faint and wide</p><img src="">'
        page.write_text(page.read_text().replace("</main>", f"{wrong}</main>"))
        ((said),) = complaints(browser, page, (360, "light")).values()
        assert all(each in " ".join(said) for each in ("scrollWidth", "beyond the edge", "contrast", "without a name"))


def failed(folder: Path) -> Run:
    run = build_run(folder)
    for path in run.paths.predictions("base2").glob("*"):
        path.unlink()
    finish(run, submission=SubmissionConfig(min_members=3))
    return run


def finished(folder: Path, combine: CombineConfig = MEAN, **changes) -> Run:
    run = build_run(folder, **changes)
    finish(run, combine)
    return run


def names(number: int) -> tuple[str, ...]:
    return (LONG, *(f"class {place}" for place in range(1, number)))


CALIBRATED = CombineConfig(calibration=Calibrator.temperature)
SEVEN = {"base": tuple(f"base{number}" for number in range(1, 6)), "pretrained": ("pretrained1", "pretrained2")}
RUNS = {
    "digits": lambda folder: finished(folder, labelled=("dev", "val", "test"), **SEVEN),
    "ten classes": lambda folder: finished(
        folder, CombineConfig(calibration=Calibrator.temperature), classes=names(10)
    ),
    "four classes, two members": lambda folder: finished(folder, classes=names(4), base=("a", "b"), pretrained=()),
    "forty classes": lambda folder: finished(folder, classes=names(40), num_rows=400),
    "1,000 classes": lambda folder: finished(
        folder, classes=names(1000), num_rows=2000, base=("member-of-a-long-name", "b", "c")
    ),
    "fifty members": lambda folder: finished(folder, base=tuple(f"member{number}" for number in range(50))),
    "a failed member": failed,
    "a member at chance": lambda folder: finished(folder, at_chance=("base1",)),
    "no labels": lambda folder: finished(folder, splits=("test",), labelled=()),
}


@pytest.mark.soak
@pytest.mark.parametrize("kind", RUNS)
def test_page_of_any_run_is_whole_and_readable(tmp_path, kind):
    run = RUNS[kind](tmp_path / "run")
    assert run.paths.report_page.stat().st_size < 5e6
    with open_browser() as browser:
        assert complaints(browser, run.paths.report_page, *LOOKS) == {}
