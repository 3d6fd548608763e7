"""Every submission format, written, read again, and caught when it says something else."""

import csv
import gzip
import io
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from asked_rows import ALL_FORMATS, CLASSES, NUM_ROWS, draw, make_question, names_of
from hypothesis import given, settings, strategies as st

from orchestrator.config.schema import SubmissionFormat
from orchestrator.submission.check import check_submission
from orchestrator.submission.formats import (
    Question,
    Template,
    file_lines,
    make_layout,
    read_class_ids,
    read_template,
    text_of,
)
from workers.errors import CheckFailed, ConfigError


def lines_of(question, probabilities=None, **layout):
    """The lines of a file, by a layout that may be wrong in the given ways."""
    laid_out = replace(make_layout(question), **layout)
    return list(file_lines(question, laid_out, draw() if probabilities is None else probabilities))


def check(path, question, lines):
    (path / "file").write_text("".join(lines))
    check_submission(path / "file", question, draw())


def shifted(question, by):
    """Class ids off by one. In probabilities the class of a value is its column: those are shifted."""
    layout = make_layout(question)
    columns = tuple(np.roll(layout.columns, by).tolist())
    return lines_of(question, names=layout.names[by:] + layout.names[:by], columns=columns)


def exchanged(question):
    lines = lines_of(question)
    first = len(lines) - NUM_ROWS + 4
    lines[first], lines[first + 1] = lines[first + 1], lines[first]
    return lines


@pytest.mark.parametrize("submission_format", ALL_FORMATS)
@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        (lambda question: shifted(question, 1), "line "),
        (lambda question: shifted(question, -1), "line "),
        (exchanged, "line [56]: "),
        # What dropping an undecodable image would do: every later row speaks of its neighbour.
        (lambda question: lines_of(question, np.roll(draw(), -1, axis=0)), "line "),
        (lambda question: lines_of(question)[:-1], "fewer lines"),
        (lambda question: [*lines_of(question), lines_of(question)[-1]], "more lines"),
        (lambda question: [*(lines := lines_of(question))[:9], *lines[10:], lines[9]], "line "),
    ],
)
def test_submission_passes_as_written_and_spoilt_is_caught(tmp_path, submission_format, spoilt, words):
    question = make_question(submission_format)
    check(tmp_path, question, lines_of(question))
    with pytest.raises(CheckFailed, match=words):
        check(tmp_path, question, spoilt(question))


def test_submission_of_its_own_format_s_mistakes_is_caught(tmp_path):
    ilsvrc = make_question(SubmissionFormat.ilsvrc)
    lines = lines_of(ilsvrc)
    with pytest.raises(CheckFailed):
        check(tmp_path, ilsvrc, lines_of(ilsvrc, names=tuple(str(index) for index in range(len(CLASSES)))))
    with pytest.raises(CheckFailed, match="line 6: blank"):
        check(tmp_path, ilsvrc, [*lines[:5], "\n", *lines[5:]])
    backwards = " ".join(reversed(lines[3].split())) + "\n"
    with pytest.raises(CheckFailed, match="line 4: its classes"):  # the first of two bad lines
        check(tmp_path, ilsvrc, [*lines[:3], backwards, *lines[4:8], "no such class\n", *lines[9:]])
    probabilities = make_question(SubmissionFormat.probabilities)
    with pytest.raises(CheckFailed, match="not the combined probabilities"):
        check(tmp_path, probabilities, lines_of(probabilities, draw().round(4)))
    boxes = make_question(SubmissionFormat.kaggle_loc)
    with pytest.raises(CheckFailed, match="whole image of 100 × 50"):
        check(tmp_path, boxes, lines_of(replace(boxes, sizes=boxes.sizes[:, ::-1])))


# Without a deadline: a busy machine may take its time.
@settings(deadline=None)
@given(seed=st.integers(0, 10_000), shown=st.sampled_from([2, 5, 7]))
def test_submission_guesses_pass_only_if_a_stable_sort_gives_them(seed, shown):
    generator = np.random.default_rng(seed)
    # Coarse values: many ties. Two neighbours exchanged are wrong unless they are the same class.
    probabilities = (generator.integers(0, 4, (NUM_ROWS, shown)) / 8).astype(np.float32)
    question = make_question(SubmissionFormat.ilsvrc, classes=CLASSES[:shown])
    order = np.argsort(-probabilities, axis=1, kind="stable")
    row, place = int(generator.integers(NUM_ROWS)), int(generator.integers(min(5, shown)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file")
        path.write_text("".join(" ".join(str(guess + 1) for guess in best[:5]) + "\n" for best in order))
        check_submission(path, question, probabilities)
        order[row, place] = generator.choice(np.delete(np.arange(shown), order[row, place]))
        path.write_text("".join(" ".join(str(guess + 1) for guess in best[:5]) + "\n" for best in order))
        with pytest.raises(CheckFailed, match=f"line {row + 1}: its classes are not the most probable"):
            check_submission(path, question, probabilities)


KNOWN = np.float32([[0.1, 0.4, 0.0, 0.2, 0.0, 0.05, 0.25]])


@pytest.mark.parametrize(
    ("submission_format", "expected"),
    [
        (SubmissionFormat.ilsvrc, "2 7 4 1 6\n"),
        (SubmissionFormat.tiny_imagenet, "a.JPEG n01\n"),
        (SubmissionFormat.labels, "id,label\nx/a.JPEG,n01\n"),
        (
            SubmissionFormat.probabilities,
            "id,n03,n01,n04,n15,n09,n02,n06\nx/a.JPEG,0.100000001,0.400000006,0,0.200000003,0,0.0500000007,0.25\n",
        ),
        (
            SubmissionFormat.kaggle_loc,
            "ImageId,PredictionString\na,n01 0 0 64 48 n06 0 0 64 48 n15 0 0 64 48 n03 0 0 64 48 n02 0 0 64 48\n",
        ),
    ],
)
def test_file_lines_known_row_golden_text(submission_format, expected):
    question = Question(submission_format, ("x/a.JPEG",), CLASSES, np.int32([[64, 48]]))
    assert "".join(file_lines(question, make_layout(question), KNOWN)) == expected


def test_file_lines_of_two_classes_and_of_equal_probabilities():
    two = Question(SubmissionFormat.ilsvrc, ("a",), ("x", "y"), np.int32([[1, 1]]))
    assert lines_of(two, np.float32([[0.25, 0.75]])) == ["2 1\n"], "as many guesses as there are classes"
    seven = Question(SubmissionFormat.ilsvrc, ("a",), CLASSES, np.int32([[1, 1]]))
    assert lines_of(seven, np.full((1, 7), 1 / 7, np.float32)) == ["1 2 3 4 5\n"], "the lower class first"


def test_labels_id_with_comma_quote_and_line_feed_survives_csv(tmp_path):
    rows = ("a,b.png", 'say "x".png', "two\nlines.png", *(f"{index}.png" for index in range(NUM_ROWS - 3)))
    question = make_question(SubmissionFormat.labels, rows=rows)
    check(tmp_path, question, lines_of(question))
    assert [line[0] for line in csv.reader((tmp_path / "file").open(newline=""))][1:] == list(rows)


def test_class_ids_file_gives_ilsvrc_ids_that_are_not_positions(tmp_path):
    # As in the kit, whose ids are not in the order of the WNIDs.
    text = "".join(f"{name} {100 - index}\n" for index, name in enumerate(CLASSES)) + "n99 7\n"
    question = make_question(SubmissionFormat.ilsvrc, class_ids=read_class_ids(text, "ids.txt"))
    assert names_of(question) == ("100", "99", "98", "97", "96", "95", "94")
    check(tmp_path, question, lines_of(question))
    assert lines_of(question)[0].split()[0] == str(100 - draw()[0].argmax())
    with pytest.raises(CheckFailed):
        check(tmp_path, make_question(SubmissionFormat.ilsvrc), lines_of(question))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("n03 1\n", "lacks an id of n01, n04, n15 and 3 more"),
        ("n03 1\nn03 2\n", "n03"),
        ("n03\n", "class id"),
        ("".join(f"{name} {index}\n" for index, name in enumerate(CLASSES)), "from 1, not 0"),
    ],
)
def test_class_ids_file_that_does_not_fit_is_a_config_error(text, words):
    with pytest.raises(ConfigError, match=words):
        make_layout(make_question(SubmissionFormat.ilsvrc, class_ids=read_class_ids(text, "ids.txt")))


def shuffled_ids(question, spell):
    order = np.random.default_rng(3).permutation(NUM_ROWS)
    return tuple(spell(question.rows[index]) for index in order)


@pytest.mark.parametrize("spell", [str, lambda row: row.removesuffix(".JPEG")], ids=["path", "stem"])
@pytest.mark.parametrize(
    "submission_format", [SubmissionFormat.labels, SubmissionFormat.probabilities, SubmissionFormat.kaggle_loc]
)
def test_template_ids_order_and_columns_are_followed(tmp_path, submission_format, spell):
    question = make_question(submission_format)
    ids = shuffled_ids(question, spell)
    columns = CLASSES[::-1] if submission_format is SubmissionFormat.probabilities else ("Category",)
    asked = replace(question, template=Template(("image_id", *columns), ids))
    check(tmp_path, asked, lines_of(asked))
    lines = list(csv.reader(lines_of(asked)))
    assert lines[0] == ["image_id", *columns]
    assert tuple(line[0] for line in lines[1:]) == ids
    if submission_format is SubmissionFormat.probabilities:
        row = [spell(name) for name in question.rows].index(ids[0])
        np.testing.assert_array_equal(np.float32(lines[1][1:]), draw()[row, ::-1])
    with pytest.raises(CheckFailed):
        check(tmp_path, question, lines_of(asked))


def test_template_ids_may_be_paths_without_extension(tmp_path):
    rows = tuple(f"{'ab'[index % 2]}/{index // 2}.png" for index in range(NUM_ROWS))
    question = make_question(SubmissionFormat.labels, rows=rows)
    ids = shuffled_ids(question, lambda row: row.removesuffix(".png"))
    asked = replace(question, template=Template(("id", "label"), ids))
    check(tmp_path, asked, lines_of(asked))
    best = {row.removesuffix(".png"): CLASSES[index] for row, index in zip(rows, draw().argmax(axis=1), strict=True)}
    assert lines_of(asked)[1:] == [f"{image_id},{best[image_id]}\n" for image_id in ids]


ROWS = make_question(SubmissionFormat.labels).rows


@pytest.mark.parametrize(
    ("submission_format", "template", "words"),
    [
        ("labels", Template(("id", "label"), (*ROWS[:-1], "x1", "x2")), "no image for its ids x1, x2"),
        ("labels", Template(("id", "label"), ROWS[2:]), "lacks ids of the images test_00.JPEG, test_01.JPEG"),
        ("probabilities", Template(("id", *CLASSES[:-1]), ROWS), "columns and classes differ in n06"),
        ("probabilities", Template(("id", *CLASSES, "n77"), ROWS), "columns and classes differ in n77"),
        (
            "probabilities",
            Template(("id", "label"), ROWS),
            r"has two columns, id, label, .* for each of 7 classes; choose",
        ),
        ("ilsvrc", Template(("id", "label"), ROWS), r"takes no submission.template: .*give submission.template=null"),
    ],
)
def test_template_that_does_not_fit_is_a_config_error_naming_what(submission_format, template, words):
    with pytest.raises(ConfigError, match=words):
        make_layout(make_question(SubmissionFormat(submission_format), template=template))


@pytest.mark.parametrize("text", ["", "id,label\n", "id\na\n", "id,label\na,1\na,2\n", "id,x,x\na,1,2\n"])
def test_read_template_malformed_is_a_config_error(text):
    with pytest.raises(ConfigError, match=r"sample\.csv"):
        read_template(text, "sample.csv")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_template_in_any_of_these_encodings_with_crlf_is_read(encoding):
    text = text_of("id,label\r\né.png,0\r\n".encode(encoding), "x")
    assert read_template(text, "x") == Template(("id", "label"), ("é.png",))


def test_name_that_is_not_utf_8_survives():
    assert text_of(b"id,label\n\xe9.png,0\n", "x").encode(errors="surrogateescape") == b"id,label\n\xe9.png,0\n"


def _zipped(compression):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("sample.csv", "id,label\na,0\nb,1\n")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_zipped(zipfile.ZIP_STORED), "a zip archive"),
        (_zipped(zipfile.ZIP_DEFLATED), "a zip archive"),
        (gzip.compress(b"id,label\na,0\n", mtime=0), "it holds the byte 0x"),
        ("id,label\na,0\n".encode("utf-16-le"), "it holds the byte 0x00"),
        ("id,label\na,0\n".encode("utf-32"), "it holds the byte 0x00"),
        ("id,label\na,0\n".encode("utf-16")[:-1], "damaged UTF-16"),
    ],
)
def test_template_that_is_no_text_is_refused_in_one_line(content, words):
    with pytest.raises(ConfigError, match=rf"^sample\.csv: [^\n]*{words}[^\n]*save it as text in UTF-8$"):
        text_of(content, "sample.csv")


def test_tiny_imagenet_equal_base_names_in_two_folders_is_a_config_error():
    rows = ("x/1.png", "y/1.png")
    question = Question(SubmissionFormat.tiny_imagenet, rows, CLASSES, np.ones((2, 2), np.int32))
    with pytest.raises(ConfigError, match=r"occur twice: 1\.png; choose submission=labels"):
        make_layout(question)


@pytest.mark.parametrize("submission_format", [SubmissionFormat.tiny_imagenet, SubmissionFormat.kaggle_loc])
def test_class_name_with_space_is_refused_where_spaces_separate(submission_format):
    classes = (*CLASSES[:-1], "great dane")
    with pytest.raises(ConfigError, match="great dane"):
        make_layout(make_question(submission_format, classes=classes))
