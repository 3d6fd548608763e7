"""Corrected labels by id: what a file says, in any source, and the one line for a file that does not fit."""

import pytest
from listed import folder, refusal
from pictures import png, write_tree

from workers.data.ids import ids_of_rows
from workers.data.relabel import read_relabelling
from workers.data.sources import open_listing
from workers.data.survey import survey
from workers.errors import DataError
from workers.settings import DatasetSettings, Source

ODD = ["a/1, two.png", 'a/"quoted".png', "a/fünf 五.png", "a/=1+1.png", "b/;semi.png", "b/x'y.png"]


def corrections(place, *lines, header="id,correct"):
    path = place / "corrected.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return str(path)


def read(settings):
    return read_relabelling(settings, open_listing(settings))


def test_changes_are_counted_and_lines_without_an_answer_do_not_count(plain_tree, tmp_path):
    lines = ["a/0.png,b", "a/1.png,-", "a/2.png,a", "a/3.png,", "b/0.png,a"]
    settings = folder(plain_tree, relabel=corrections(tmp_path, *lines))
    found = read(settings)
    assert found.changes == {"a/0.png": "b", "a/1.png": "-", "b/0.png": "a"}
    assert (found.left_out, found.num_same) == (("a/1.png",), 1)
    plain = folder(plain_tree)
    assert survey(plain).counts["train"] - survey(settings).counts["train"] == 1
    assert read(plain) is None and survey(plain).relabelling is None


def test_digest_follows_what_changes_and_neither_path_nor_order_nor_other_columns(plain_tree, tmp_path):
    one = read(folder(plain_tree, relabel=corrections(tmp_path, "a/0.png,b", "a/2.png,a", "b/0.png,-")))
    (tmp_path / "elsewhere").mkdir()
    lines = ["0.5,-,train/b/0.png", "0.1,b,a\\0"]
    other = read(
        folder(plain_tree, relabel=corrections(tmp_path / "elsewhere", *lines, header="probability,Correct,ID"))
    )
    third = read(folder(plain_tree, relabel=corrections(tmp_path, "a/0.png,c", "b/0.png,-")))
    assert one.digest == other.digest != third.digest


def test_odd_ids_and_classes_are_found_as_a_spreadsheet_writes_them(tmp_path):
    root = write_tree(tmp_path / "odd", {f"train/{name}": seed for seed, name in enumerate([*ODD, "c, d/1.png"])})
    quoted = [f'"{name.replace(chr(34), 2 * chr(34))}";"c, d"' for name in ODD]
    path = corrections(tmp_path, *quoted, header="id;correct")
    content = (tmp_path / "corrected.csv").read_bytes()
    (tmp_path / "corrected.csv").write_bytes(b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"))
    found = read(folder(root, val_fraction=0, dev_fraction=0, relabel=path))
    assert found.changes == dict.fromkeys(ODD, "c, d")


@pytest.mark.parametrize("answer", ["3", "3.0"])
def test_classes_that_are_numbers_may_be_written_as_pandas_does(tmp_path, answer):
    root = write_tree(tmp_path / "numbers", {f"train/{name}/{seed}.png": seed for seed, name in enumerate("0123")})
    settings = folder(root, val_fraction=0, dev_fraction=0, relabel=corrections(tmp_path, f"0/0.png,{answer}"))
    assert read(settings).changes == {"0/0.png": "3"}


def test_every_source_takes_corrections(plain_tree, tmp_path):
    """Parquet and tar shards list the same `FileListing`; torchvision and digits list rows."""
    root = write_tree(tmp_path / "csv", {f"images/{name}": png(seed) for seed, name in enumerate(["1.png", "x/2.png"])})
    (root / "train.csv").write_text("id,label\n1.png,cat\nx/2.png,dog\n")
    table = DatasetSettings(Source.csv, str(root), val_fraction=0, dev_fraction=0)
    relabel = corrections(tmp_path, "2.png,cat")
    settings = DatasetSettings(Source.csv, str(root), val_fraction=0, dev_fraction=0, relabel=relabel)
    assert read(settings).changes == {"x/2.png": "cat"}
    assert survey(table).counts == survey(settings).counts
    digits = DatasetSettings(Source.digits, orientations=4)
    row = next(iter(open_listing(digits).named_classes()["train"]))
    found = read(DatasetSettings(Source.digits, orientations=4, relabel=corrections(tmp_path, f"{row},7@90")))
    assert found.changes == {row: "7@90"}


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["a/0.pmg,b"], "a/0.pmg: no such training image; did you mean a/0.png?"),
        (["b/0.jpeg,c"], "b/0.jpeg: no such training image; did you mean b/0.png?"),
        (["zzzzzz,b"], "zzzzzz: no such training image; write paths below train/, as in data/oof.rows.txt"),
        (["d/0.png,b"], "d/0.png: no such training image; did you mean"),
        (["a/0.png,aa"], "line 2: no class aa; did you mean a?"),
        (["a/0.png,quite another"], "line 2: no class quite another; known: a, b, c"),
        (["a/0.png,b", "a/0.png,c"], "line 3: a/0.png has another answer above"),
        (["a/0.png,b", "a/0,c"], "a/0: another line names the same image; keep one"),
        (["0.png,b"], "an id may be several images; write paths below train/ (0.png: a/0.png, b/0.png)"),
        ([",b"], "line 2: has no id"),
        (["t0.png,b"], "t0.png: is an image of test, and only training images are relabelled"),
        (["test/t0.png,b"], "test/t0.png: is an image of test"),
        ([], "no line below the header"),
    ],
)
def test_file_that_does_not_fit_is_refused_in_one_line(plain_tree, tmp_path, lines, why):
    path = corrections(tmp_path, *lines)
    assert why in refusal(folder(plain_tree, relabel=path))


def test_file_that_is_missing_or_lacks_a_column_is_refused(plain_tree, tmp_path):
    said = refusal(folder(plain_tree, relabel=str(tmp_path / "nowhere.csv")))
    assert "relabel=" in said and "no such file; give a csv file with the columns id and correct" in said
    path = corrections(tmp_path, "a/0.png,b", header="id,label")
    assert "has no column correct, or two (columns: id, label)" in refusal(folder(plain_tree, relabel=path))


def test_whole_path_of_an_image_means_no_other():
    """A file of its own making names the image at the root and not its namesake in a folder."""
    assert ids_of_rows(["1.png", "x/1.png"], ["1.png"]) == {"1.png": "1.png"}
    assert ids_of_rows(["train/a.png", "b.png"], ["train/a.png", "train/b"]) == {
        "train/a.png": "train/a.png",
        "b.png": "train/b",
    }
    with pytest.raises(DataError, match="an id may be several images"):
        ids_of_rows(["y/1.png", "x/1.png"], ["1.png"])
