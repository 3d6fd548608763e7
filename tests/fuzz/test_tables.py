"""Csv files as programs and people write them: each line is used rightly, listed, or the file is refused."""

import csv
import io
import unicodedata
from dataclasses import dataclass

import pytest
from fuzzing import fuzzed
from hypothesis import given, strategies as st
from pictures import write_tree

from workers.data.sources import open_listing
from workers.data.sources.listing import unwatched
from workers.errors import DataError
from workers.settings import DatasetSettings, OnBad, Source

NAMES = (
    "0001",
    "0002",
    "3",
    "10",
    "a b",
    "x,y",
    "it's",
    "UPPER",
    "blätter",
    "img-7",
    "img.8",
    "9_a",
    "k",
    "l",
    "m",
    "n",
)
MISSING = ("", "nan", "NaN", "null", "None", "NA")
HEADERS = (("id", "label"), ("image", "class"), ("filename", "target"), ("Image_ID", "Label"), ("file", "species"))
# What an export of a table adds: a number of the row without or with a name, and remarks with any character.
EXTRA = {"none": None, "index": "", "numbers": "row", "remarks": "remark"}
REMARK = 'said "so, or\nso"; never'


@dataclass(frozen=True)
class Style:
    """How a table is written; `plain` ones must be read."""

    delimiter: str
    encoding: str
    end: str
    quoting: int
    extension: bool
    header: tuple[str, str] | None
    extra: str
    swapped: bool
    blank: bool

    @property
    def plain(self) -> bool:
        return self.header is not None and self.encoding in ("utf-8", "utf-8-sig", "utf-16") and self.extra == "none"


STYLES = st.builds(
    Style,
    delimiter=st.sampled_from(",;\t|"),
    encoding=st.sampled_from(("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252")),
    end=st.sampled_from(("\n", "\r\n", "\r")),
    quoting=st.sampled_from((csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC)),
    extension=st.booleans(),
    header=st.one_of(st.sampled_from(HEADERS), st.none()),
    extra=st.sampled_from(tuple(EXTRA)),
    swapped=st.booleans(),
    blank=st.booleans(),
)
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=8)
KINDS = st.one_of(
    st.lists(WORDS.filter(lambda word: word.strip() == word), min_size=2, max_size=3, unique=True),
    st.just(["0", "1"]),
    st.just(["1", "2", "10"]),
    st.just(["0.0", "1.0"]),
    st.just(["-1", "1"]),
    st.just(["cat", "7"]),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("tables"), [f"train/{name}.png" for name in NAMES])


def written(style, lines):
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=style.delimiter, lineterminator=style.end, quoting=style.quoting)
    for number, (name, label) in enumerate(lines):
        cells = [f"{name}.png" if style.extension else name, label]
        cells = cells[::-1] if style.swapped else cells
        cells = {"none": cells, "remarks": [*cells, REMARK]}.get(style.extra, [str(number), *cells])
        if number == 0 and style.header is not None:
            header = list(style.header[::-1] if style.swapped else style.header)
            header = {"none": header, "remarks": [*header, "remark"]}.get(style.extra, [EXTRA[style.extra], *header])
            writer.writerow(header)
        writer.writerow(cells)
    return (buffer.getvalue() + (style.end * 2 if style.blank else "")).encode(style.encoding, "replace")


def same(label, class_name):
    """Whether a class is the one that a label names: `1.0` and `1` are one, and so are two forms of a letter."""
    try:
        return float(label) == float(class_name)
    except ValueError:
        return unicodedata.normalize("NFC", label) == unicodedata.normalize("NFC", class_name)


@given(style=STYLES, kinds=KINDS, missing=st.sampled_from(MISSING), num_missing=st.integers(0, 2), skip=st.booleans())
@fuzzed(400)
def test_table_each_line_is_used_rightly_or_listed_or_all_is_refused(root, style, kinds, missing, num_missing, skip):
    truth = {f"{name}.png": kinds[index % len(kinds)] for index, name in enumerate(NAMES)}
    lines = [(name, missing if index < num_missing else truth[f"{name}.png"]) for index, name in enumerate(NAMES)]
    (root / "train.csv").write_bytes(written(style, lines))
    settings = DatasetSettings(
        source=Source.csv, root=str(root), size=8, on_bad=OnBad.skip if skip else OnBad.stop, dev_fraction=0
    )
    try:
        listing = open_listing(settings)
        rows = listing.rows(unwatched)
    except DataError as error:
        usual = all(word.isalpha() and word.isascii() and word.lower() not in map(str.lower, MISSING) for word in kinds)
        assert not (style.plain and style.delimiter != "|" and num_missing == 0 and usual), str(error)
        return
    used = {row.name: listing.classes[row.label] for split in ("train", "dev", "val") for row in rows.splits[split]}
    # Among names, "None" and "NA" are classes.
    is_class = missing in ("None", "NA") and not all(kind.lstrip("-")[:1].isdecimal() for kind in kinds)
    if is_class:
        truth |= {f"{name}.png": missing for name, _ in lines[:num_missing]}
    unlabelled = set() if is_class else {f"{name}.png" for name, _ in lines[:num_missing]}
    assert not unlabelled & used.keys()
    assert all(same(truth[name], class_name) for name, class_name in used.items()), used
    assert len(used) + len(rows.left_out) >= len(lines)
