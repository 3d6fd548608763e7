"""The page: self-contained, safe for any name; the table as text and Markdown."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from orchestrator.combine import Interval
from orchestrator.combine.averaging import Combined, equal
from orchestrator.config.schema import CombineConfig, CombineMethod, SubmissionConfig
from orchestrator.outputs import write_results
from orchestrator.report import table as scoreboard, write
from orchestrator.report.comparisons import Compared
from orchestrator.report.figures import Drawing
from orchestrator.report.gallery import first_convolution
from orchestrator.report.page import render
from orchestrator.report.sections import Card, Fact, Guess, Link, Section, Table, to_markdown
from orchestrator.report.table import Caveats

PNG = b"\x89PNG"


def make_scores(base=("a", "b"), method=CombineMethod.mean):
    generator = np.random.default_rng(0)
    members = {name: generator.dirichlet(np.ones(12), 50).astype(np.float32) for name in (*base, "deep")}
    combined = Combined(list(members.values()), equal(method, len(members)))
    return scoreboard.score_split("val", members, base, ("deep",), combined, generator.integers(0, 12, 50))


def make_section(word="cat"):
    guesses = (Guess(f"<b>{word}", 0.75, right=True), Guess("dog", 0.25))
    other = Card("data:image/png;base64,bb", "a neighbour", ("near",))
    return Section(
        "errors",
        "Errors & more",
        (Drawing("d", "a <caption>", "", "<svg></svg>", b"", PNG),),
        (Table(("", "n"), (("a<b", "3"),), "all", ("marked: because",), marked=(0,)),),
        (Card("data:image/png;base64,aa", "an <i>image", ("d/<a.jpg",), guesses, (other,)),),
        ("note <1>",),
        (Fact("error", "3.00 %", "of <all>"),),
        (Fact("log", Link("log.txt", "../members/a b/log.txt")),),
    )


def make_page(*sections, **changes):
    page = {"title": "digits", "under": "2 members", "sections": sections or (make_section(),), "pictures": {}}
    return render(**page | changes)


class Reader(HTMLParser):
    """Collects tags, references and text; complains of tags that do not match."""

    VOID = ("meta", "img", "wbr")

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.references: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.references += [value or "" for name, value in attributes if name in ("src", "srcset", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parse(page):
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def test_render_page_needs_nothing_beside_it():
    reader = parse(make_page())
    pictures = [reference for reference in reader.references if reference.startswith("data:image/png;base64,")]
    assert len(pictures) == 2
    links = {reference for reference in reader.references if reference not in pictures}
    assert links == {"#parts", "#errors", "../members/a b/log.txt"}
    assert not reader.tags & {"script", "link", "iframe"}
    assert "url(" not in make_page()
    assert "http" not in make_page()


def test_render_names_with_markup_or_template_code_are_shown_as_text():
    names = ("<i>&x", '{{ 7 * 7 }}"onload="')
    for name in names:
        reader = parse(make_page(make_section(name), title="<script>alert(1)</script>"))
        assert not reader.tags & {"script"}
        assert f"<b>{name}" in "".join(reader.text)


def test_to_text_columns_line_up_and_no_line_is_long():
    text = scoreboard.table_text(make_scores(), Caveats())
    lines = text.splitlines()
    assert lines[0] == "val: 50 images, 12 classes"
    table = lines[2:7]
    assert [line.split("  ")[0] for line in table[1:]] == ["1 CNN", "2 CNNs", "1 CNN*", "3 CNNs*"]
    # The first row differs from none.
    assert len({len(line) for line in (table[0], *table[2:])}) == 1
    assert len(table[1]) == table[0].index("NLL") + 3
    assert "mean of 2" in table[1]
    assert max(len(line) for line in lines) <= 120
    assert text.endswith("\n") and "†" not in text and "dev_fraction" not in text
    assert "dev_fraction is 0" in scoreboard.table_text(make_scores(), Caveats(cuts_saw_val=True))


def test_unreadable_images_are_counted_and_the_first_named():
    rows = [f"{number}.jpg" for number in range(1200)]
    text = scoreboard.table_text(make_scores(), Caveats(unreadable={"test": rows}))
    assert "1,200 test images could not be read" in text
    assert "uniform probabilities: 0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg, …\n" in text
    assert "UNREADABLE" not in scoreboard.table_text(make_scores(), Caveats())


def test_to_markdown_asterisks_are_literal_and_cells_equal_in_number():
    table = Table(*scoreboard.table_columns(make_scores(), Caveats(at_chance=("b",))), "val", ("note",), (1,))
    text = to_markdown(Section("table", "Errors", tables=(table,), notes=("all",)))
    assert to_markdown(Section("a", "A", tables=(table, table))).count("- note\n\n## val") == 1
    assert text.startswith("## val\n\n|") and text.endswith("\n\n- note\n\n- all\n") and "| **2 CNNs †** |" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {8}
    assert r"3 CNNs\* †" in text
    assert r"1 CNN\* †" not in text


def test_table_columns_that_say_nothing_are_left_out():
    whole, scores = scoreboard.HEADER, make_scores()
    assert scoreboard.table_columns(scores, Caveats())[0] == whole
    of_five = replace(scores, num_classes=5)
    assert scoreboard.table_columns(of_five, Caveats())[0] == tuple(name for name in whole if name != "top-5 error")
    assert scoreboard.table_columns(replace(scores, num_classes=6), Caveats())[0] == whole
    for rows, header in ((1, whole[:-2]), (2, whole[:-1]), (3, whole)):
        found, lines = scoreboard.table_columns(replace(scores, rows=scores.rows[:rows]), Caveats())
        assert found == header and {len(line) for line in lines} == {len(header)} and len(lines) == rows


def test_better_lines_hold_no_mean_of_singles_and_no_tie_with_the_first_row_or_the_row_above():
    scores = make_scores()
    below, tied = Interval(-0.2, -0.3, -0.1), Interval(-0.1, -0.2, 0.0)

    def marked(*found):
        pairs = zip(scores.rows[1:], found, strict=True)
        others = [replace(row, compared=Compared(below, *each)) for row, each in pairs]
        return scoreboard.better_lines(replace(scores, rows=(scores.rows[0], *others)))

    assert [one.row.averaged for one in scores.rows] == [False, True, False, True]
    # "1 CNN*" is of one member here, whose answers could be submitted.
    assert marked((below, below), (below, below), (below, below)) == (1, 2, 3)
    assert marked((tied, below), (below, below), (below, tied)) == (2,)
    mean = replace(scores.rows[2], row=replace(scores.rows[2].row, members=("x", "y")))
    scores = replace(scores, rows=(*scores.rows[:2], mean, scores.rows[3]))
    assert marked((below, below), (below, below), (tied, tied)) == (1,)


@pytest.mark.parametrize("method", [CombineMethod.weighted, CombineMethod.geometric])
def test_table_lines_other_than_mean_adds_the_ensemble(method):
    lines = scoreboard.table_lines(make_scores(method=method), Caveats())
    assert lines[-1][0] == f"ensemble, {method}"
    assert len(lines) == 5
    assert len(scoreboard.table_lines(make_scores(), Caveats())) == 4


def test_write_results_again_gives_the_same_bytes_and_copies_the_sheets_that_the_run_has(tmp_path, make_run):
    run = make_run(tmp_path)

    def written():
        files = write_results(run.paths, run.plan, CombineConfig(), SubmissionConfig()).files
        assert all(path.is_file() for path in files)
        folders = (run.paths.submission, run.paths.report)
        return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}

    before = written()
    assert len(before) == 3 + 2 * 7 + 2 + 5 + 1 + len(run.plan.members)
    last = run.plan.last_stage(run.plan.members[0]).ref
    sheets = (run.paths.prepared_sheet, run.paths.augmented_sheet(last))
    for path in sheets:
        path.write_bytes(PNG + path.name.encode())
    after = written()
    assert {path.name: after[path] for path in after.keys() - before.keys()} == {
        name: PNG + sheet.name.encode() for name, sheet in zip(("prepared.png", "augmented.png"), sheets, strict=True)
    }
    page = run.paths.report / "index.html"
    assert {path for path in before if before[path] != after[path]} == {page}


def test_write_report_collects_what_parts_bring_and_deletes_figures_that_no_part_has(tmp_path, make_run, monkeypatch):
    run = make_run(tmp_path)
    part = Section(
        "a", "A", make_section().drawings, pictures={"b": PNG}, csv={"c": [("a, b", 1, 0.1234567)]}, numbers={"d": 2}
    )
    figures = run.paths.report / "figures"
    figures.mkdir(parents=True)
    for name in ("old.png", "old.csv", "old.svg", "kept.txt"):
        (figures / name).write_text("old")
    monkeypatch.setattr(
        write, "PARTS", (lambda _: part, lambda _: None, lambda found: replace(part, key=found.plan.hash))
    )
    write_results(run.paths, run.plan, CombineConfig(), SubmissionConfig())
    assert {path.name for path in figures.iterdir()} == {"d.png", "d.svg", "b.png", "c.csv", "kept.txt"}
    assert (figures / "c.csv").read_text() == '"a, b",1,0.123457\n' and (figures / "b.png").read_bytes() == PNG
    assert json.loads(run.paths.report_scores.read_text())["parts"] == {"a": {"d": 2}, run.plan.hash: {"d": 2}}
    page = run.paths.report_page.read_text()
    assert page.index('<section id="a"') < page.index(f'<section id="{run.plan.hash}"')


@pytest.mark.parametrize(
    ("shapes", "found"),
    [
        ({"conv1.weight": (96, 3, 11, 11), "conv2.weight": (256, 48, 5, 5), "fc8.weight": (10, 3)}, "conv1.weight"),
        ({"features.10.0.weight": (8, 3, 3, 3), "features.2.0.weight": (16, 3, 3, 3)}, "features.2.0.weight"),
        ({"c1.weight": (6, 1, 5, 5), "c5.weight": (120, 16, 5, 5)}, None),
    ],
)
def test_first_convolution_is_the_one_that_sees_colours(shapes, found):
    assert first_convolution(shapes) == found


def test_render_a_section_shows_all_it_has_and_escapes_it():
    reader = parse(make_page())
    text = "".join(reader.text)
    shown = ("Errors & more", "a <caption>", "a<b", "note <1>", "<b>cat", "75 %", "d/<a.jpg", "near", "marked: because")
    for expected in (*shown, "3.00 %", "of <all>", "log.txt"):
        assert expected in text
    assert {"data:image/png;base64,aa", "data:image/png;base64,bb"} <= set(reader.references)
