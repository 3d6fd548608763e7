"""Every submission format, written, read again, and caught when it says something else."""

import csv
import io
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from asked_rows import ALL_FORMATS, CLASSES, NUM_ROWS, draw, make_question, names_of, write
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
)
from workers.errors import CheckFailed, ConfigError


@pytest.mark.parametrize("submission_format", ALL_FORMATS)
def test_submission_written_and_read_again_passes(tmp_path: Path, submission_format: SubmissionFormat) -> None:
    question = make_question(submission_format)
    path = write(tmp_path / "file", question, make_layout(question), draw())
    check_submission(path, question, draw())


@pytest.mark.parametrize("submission_format", ALL_FORMATS)
@pytest.mark.parametrize("shift", [1, -1])
def test_submission_class_mapping_off_by_one_is_caught(
    tmp_path: Path, submission_format: SubmissionFormat, shift: int
) -> None:
    question = make_question(submission_format)
    layout = make_layout(question)
    shifted = layout.names[shift:] + layout.names[:shift]
    # In probabilities the class of a value is its column: shift those.
    columns = tuple(np.roll(layout.columns, shift).tolist())
    path = write(tmp_path / "file", question, replace(layout, names=shifted, columns=columns), draw())
    with pytest.raises(CheckFailed, match="line "):
        check_submission(path, question, draw())


def test_submission_ilsvrc_ids_from_zero_are_caught(tmp_path: Path) -> None:
    question = make_question(SubmissionFormat.ilsvrc)
    from_zero = tuple(str(index) for index in range(len(CLASSES)))
    path = write(tmp_path / "file", question, replace(make_layout(question), names=from_zero), draw())
    with pytest.raises(CheckFailed):
        check_submission(path, question, draw())


@pytest.mark.parametrize("submission_format", ALL_FORMATS)
def test_submission_two_rows_exchanged_is_caught(tmp_path: Path, submission_format: SubmissionFormat) -> None:
    question = make_question(submission_format)
    lines = list(file_lines(question, make_layout(question), draw()))
    first = len(lines) - NUM_ROWS + 4
    assert lines[first] != lines[first + 1]
    lines[first], lines[first + 1] = lines[first + 1], lines[first]
    (tmp_path / "file").write_text("".join(lines))
    with pytest.raises(CheckFailed, match=f"line {first + 1}"):
        check_submission(tmp_path / "file", question, draw())


@pytest.mark.parametrize("submission_format", ALL_FORMATS)
def test_submission_ids_in_order_but_probabilities_shifted_by_a_row_is_caught(
    tmp_path: Path, submission_format: SubmissionFormat
) -> None:
    question = make_question(submission_format)
    # What dropping an undecodable image would do: every later row speaks of its neighbour.
    layout = make_layout(question)
    path = write(tmp_path / "file", question, layout, np.roll(draw(), -1, axis=0))
    with pytest.raises(CheckFailed):
        check_submission(path, question, draw())


@pytest.mark.parametrize("submission_format", ALL_FORMATS)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: lines[:-1], "fewer lines"),
        (lambda lines: [*lines, lines[-1]], "more lines"),
        (lambda lines: [*lines[:9], *lines[10:], lines[9]], "line "),
    ],
)
def test_submission_wrong_number_or_place_of_lines_is_caught(
    tmp_path: Path, submission_format: SubmissionFormat, change: Callable[[list[str]], list[str]], words: str
) -> None:
    question = make_question(submission_format)
    lines = list(file_lines(question, make_layout(question), draw()))
    (tmp_path / "file").write_text("".join(change(lines)))
    with pytest.raises(CheckFailed, match=words):
        check_submission(tmp_path / "file", question, draw())


@pytest.mark.parametrize("submission_format", [SubmissionFormat.ilsvrc, SubmissionFormat.tiny_imagenet])
def test_submission_blank_line_is_caught(tmp_path: Path, submission_format: SubmissionFormat) -> None:
    question = make_question(submission_format)
    lines = list(file_lines(question, make_layout(question), draw()))
    (tmp_path / "file").write_text("".join([*lines[:5], "\n", *lines[5:]]))
    with pytest.raises(CheckFailed, match="line 6: blank"):
        check_submission(tmp_path / "file", question, draw())


def test_submission_rounded_probabilities_are_caught(tmp_path: Path) -> None:
    question = make_question(SubmissionFormat.probabilities)
    path = write(tmp_path / "file", question, make_layout(question), draw().round(4))
    with pytest.raises(CheckFailed, match="not the combined probabilities"):
        check_submission(path, question, draw())


# Without a deadline: a busy machine may take its time.
@settings(deadline=None)
@given(seed=st.integers(0, 10_000), shown=st.sampled_from([2, 5, 7]))
def test_submission_guesses_pass_only_if_a_stable_sort_gives_them(seed: int, shown: int) -> None:
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


def test_submission_two_bad_lines_the_first_is_named(tmp_path: Path) -> None:
    question = make_question(SubmissionFormat.ilsvrc)
    path = write(tmp_path / "file", question, make_layout(question), draw())
    lines = path.read_text().splitlines(keepends=True)
    lines[3] = " ".join(reversed(lines[3].split())) + "\n"
    lines[8] = "no such class\n"
    path.write_text("".join(lines))
    with pytest.raises(CheckFailed, match="line 4: its classes"):
        check_submission(path, question, draw())


def test_submission_boxes_of_another_image_are_caught(tmp_path: Path) -> None:
    question = make_question(SubmissionFormat.kaggle_loc)
    other = replace(question, sizes=question.sizes[:, ::-1])
    path = write(tmp_path / "file", other, make_layout(question), draw())
    with pytest.raises(CheckFailed, match="whole image of 100 × 50"):
        check_submission(path, question, draw())


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
def test_file_lines_known_row_golden_text(submission_format: SubmissionFormat, expected: str) -> None:
    question = Question(submission_format, ("x/a.JPEG",), CLASSES, np.int32([[64, 48]]))
    assert "".join(file_lines(question, make_layout(question), KNOWN)) == expected


def test_file_lines_fewer_than_five_classes_gives_as_many_guesses() -> None:
    question = Question(SubmissionFormat.ilsvrc, ("a",), ("x", "y"), np.int32([[1, 1]]))
    assert list(file_lines(question, make_layout(question), np.float32([[0.25, 0.75]]))) == ["2 1\n"]


def test_file_lines_equal_probabilities_lower_class_first() -> None:
    question = Question(SubmissionFormat.ilsvrc, ("a",), CLASSES, np.int32([[1, 1]]))
    uniform = np.full((1, 7), 1 / 7, np.float32)
    assert list(file_lines(question, make_layout(question), uniform)) == ["1 2 3 4 5\n"]


def test_labels_id_with_comma_quote_and_line_feed_survives_csv(tmp_path: Path) -> None:
    rows = ("a,b.png", 'say "x".png', "two\nlines.png", *(f"{index}.png" for index in range(NUM_ROWS - 3)))
    question = make_question(SubmissionFormat.labels, rows=rows)
    path = write(tmp_path / "file", question, make_layout(question), draw())
    assert [line[0] for line in csv.reader(path.open(newline=""))][1:] == list(rows)
    check_submission(path, question, draw())


def test_class_ids_file_gives_ilsvrc_ids_that_are_not_positions(tmp_path: Path) -> None:
    # As in the kit, whose ids are not in the order of the WNIDs.
    text = "".join(f"{name} {100 - index}\n" for index, name in enumerate(CLASSES)) + "n99 7\n"
    question = make_question(SubmissionFormat.ilsvrc, class_ids=read_class_ids(text, "ids.txt"))
    assert names_of(question) == ("100", "99", "98", "97", "96", "95", "94")
    path = write(tmp_path / "file", question, make_layout(question), draw())
    check_submission(path, question, draw())
    assert path.read_text().split()[0] == str(100 - draw()[0].argmax())
    with pytest.raises(CheckFailed):
        check_submission(path, make_question(SubmissionFormat.ilsvrc), draw())


@pytest.mark.parametrize(
    ("text", "words"),
    [("n03 1\n", "lacks an id of n01, n04, n15 and 3 more"), ("n03 1\nn03 2\n", "n03"), ("n03\n", "class id")],
)
def test_class_ids_file_that_does_not_fit_is_a_config_error(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_layout(make_question(SubmissionFormat.ilsvrc, class_ids=read_class_ids(text, "ids.txt")))


def test_class_ids_of_zero_is_a_config_error_in_ilsvrc() -> None:
    ids = {name: str(index) for index, name in enumerate(CLASSES)}
    with pytest.raises(ConfigError, match="from 1, not 0"):
        make_layout(make_question(SubmissionFormat.ilsvrc, class_ids=ids))


def shuffled_ids(question: Question, spell: Callable[[str], str]) -> tuple[str, ...]:
    order = np.random.default_rng(3).permutation(NUM_ROWS)
    return tuple(spell(question.rows[index]) for index in order)


@pytest.mark.parametrize("spell", [str, lambda row: row.removesuffix(".JPEG")], ids=["path", "stem"])
@pytest.mark.parametrize(
    "submission_format", [SubmissionFormat.labels, SubmissionFormat.probabilities, SubmissionFormat.kaggle_loc]
)
def test_template_ids_order_and_columns_are_followed(
    tmp_path: Path, submission_format: SubmissionFormat, spell: Callable[[str], str]
) -> None:
    question = make_question(submission_format)
    ids = shuffled_ids(question, spell)
    columns = CLASSES[::-1] if submission_format is SubmissionFormat.probabilities else ("Category",)
    asked = replace(question, template=Template(("image_id", *columns), ids))
    path = write(tmp_path / "file", asked, make_layout(asked), draw())
    check_submission(path, asked, draw())
    lines = list(csv.reader(io.StringIO(path.read_text())))
    assert lines[0] == ["image_id", *columns]
    assert tuple(line[0] for line in lines[1:]) == ids
    if submission_format is SubmissionFormat.probabilities:
        row = [spell(name) for name in question.rows].index(ids[0])
        np.testing.assert_array_equal(np.float32(lines[1][1:]), draw()[row, ::-1])
    with pytest.raises(CheckFailed):
        check_submission(path, question, draw())


def test_template_ids_may_be_paths_without_extension(tmp_path: Path) -> None:
    rows = tuple(f"{'ab'[index % 2]}/{index // 2}.png" for index in range(NUM_ROWS))
    question = make_question(SubmissionFormat.labels, rows=rows)
    ids = shuffled_ids(question, lambda row: row.removesuffix(".png"))
    asked = replace(question, template=Template(("id", "label"), ids))
    path = write(tmp_path / "file", asked, make_layout(asked), draw())
    check_submission(path, asked, draw())
    best = {row.removesuffix(".png"): CLASSES[index] for row, index in zip(rows, draw().argmax(axis=1), strict=True)}
    lines = list(csv.reader(io.StringIO(path.read_text())))[1:]
    assert [tuple(line) for line in lines] == [(image_id, best[image_id]) for image_id in ids]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda ids: (*ids[:-1], "x1", "x2"), "no image for its ids x1, x2"),
        (lambda ids: ids[2:], "lacks ids of the images test_00.JPEG, test_01.JPEG"),
    ],
)
def test_template_of_other_ids_is_a_config_error_naming_some(
    change: Callable[[tuple[str, ...]], tuple[str, ...]], words: str
) -> None:
    question = make_question(SubmissionFormat.labels)
    asked = replace(question, template=Template(("id", "label"), change(question.rows)))
    with pytest.raises(ConfigError, match=words):
        make_layout(asked)


@pytest.mark.parametrize("columns", [CLASSES[:-1], (*CLASSES, "n77"), (*CLASSES[:-1], "n77")])
def test_template_of_other_columns_is_a_config_error_naming_them(columns: tuple[str, ...]) -> None:
    question = make_question(SubmissionFormat.probabilities)
    asked = replace(question, template=Template(("id", *columns), question.rows))
    with pytest.raises(ConfigError, match=r"columns and classes differ in n(06|77)"):
        make_layout(asked)


def test_template_in_a_text_format_is_a_config_error() -> None:
    question = make_question(SubmissionFormat.ilsvrc)
    with pytest.raises(ConfigError, match=r"takes no submission.template"):
        make_layout(replace(question, template=Template(("id", "label"), question.rows)))


@pytest.mark.parametrize("text", ["", "id,label\n", "id\na\n", "id,label\na,1\na,2\n", "id,x,x\na,1,2\n"])
def test_read_template_malformed_is_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError, match=r"sample\.csv"):
        read_template(text, "sample.csv")


def test_read_template_with_byte_order_mark_and_crlf_is_read() -> None:
    assert read_template("\ufeffid,label\r\na,0\r\n", "x") == Template(("id", "label"), ("a",))


def test_tiny_imagenet_equal_base_names_in_two_folders_is_a_config_error() -> None:
    rows = ("x/1.png", "y/1.png")
    question = Question(SubmissionFormat.tiny_imagenet, rows, CLASSES, np.ones((2, 2), np.int32))
    with pytest.raises(ConfigError, match=r"occur twice: 1\.png; choose submission=labels"):
        make_layout(question)


@pytest.mark.parametrize("submission_format", [SubmissionFormat.tiny_imagenet, SubmissionFormat.kaggle_loc])
def test_class_name_with_space_is_refused_where_spaces_separate(submission_format: SubmissionFormat) -> None:
    classes = (*CLASSES[:-1], "great dane")
    with pytest.raises(ConfigError, match="great dane"):
        make_layout(make_question(submission_format, classes=classes))
