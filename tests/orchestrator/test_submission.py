"""Every submission format, written, read again, and caught when it says something else."""

import csv
import hashlib
import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.aggregate import MemberPredictions
from orchestrator.combine import mean
from orchestrator.config_schema import SubmissionConfig, SubmissionFormat
from orchestrator.run_data import RunData, SplitData
from orchestrator.submission import Provenance, Submission, ask, check_config, write_submission
from orchestrator.submission_check import check_submission
from orchestrator.submission_formats import (
    Layout,
    Question,
    Template,
    file_lines,
    make_layout,
    read_class_ids,
    read_template,
)
from workers.errors import CheckFailed, ConfigError
from workers.protocol import SplitPredictions

CLASSES = tuple(f"n{number:02d}" for number in (3, 1, 4, 15, 9, 2, 6))
NUM_ROWS = 30
ALL_FORMATS = list(SubmissionFormat)


def make_question(submission_format: SubmissionFormat, **changes: object) -> Question:
    rows = tuple(f"test_{index:02d}.JPEG" for index in range(NUM_ROWS))
    sizes = np.array([(100 + index, 50 + index) for index in range(NUM_ROWS)], np.int32)
    return replace(Question(submission_format, rows, CLASSES, sizes), **changes)  # type: ignore[arg-type]


def draw(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(len(CLASSES)), size=NUM_ROWS).astype(np.float32)


def write(path: Path, question: Question, layout: Layout, probabilities: np.ndarray) -> Path:
    path.write_text("".join(file_lines(question, layout, probabilities)))
    return path


def names_of(question: Question) -> tuple[str, ...]:
    return make_layout(question).names


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


def make_data(unreadable: tuple[int, ...] = (), splits: tuple[str, ...] = ("val", "test")) -> RunData:
    question = make_question(SubmissionFormat.labels)
    digest = hashlib.sha256("".join(f"{row}\n" for row in question.rows).encode()).hexdigest()
    return RunData(
        "data-digest",
        CLASSES,
        {name: SplitData(name, question.rows, digest, None, question.sizes, unreadable) for name in splits},
    )


def store_member(folder: Path, name: str, seed: int, unreadable: tuple[int, ...]) -> MemberPredictions:
    path = folder / f"{name}.npy"
    np.save(path, draw(seed))
    offset = int(np.load(path, mmap_mode="r").offset)
    about = SplitPredictions("test", NUM_ROWS, len(CLASSES), "r", "d", f"sha-{name}", "step-7", f"checkpoint-{name}")
    return MemberPredictions(name, path, about, offset, unreadable)


def submit(tmp_path: Path, config: SubmissionConfig, unreadable: tuple[int, ...] = ()) -> Submission:
    members = tuple(store_member(tmp_path, name, seed, unreadable) for seed, name in enumerate(("a", "b")))
    provenance = {one.member: Provenance("main", f"hash-{one.member}") for one in members}
    data = make_data(unreadable)
    return write_submission(tmp_path / "submission", config, data, mean(members), members, provenance)


@pytest.mark.parametrize("submission_format", ALL_FORMATS)
def test_write_submission_leaves_one_file_and_a_manifest_of_it(
    tmp_path: Path, submission_format: SubmissionFormat
) -> None:
    submission = submit(tmp_path, SubmissionConfig(submission_format))
    folder = tmp_path / "submission"
    assert {path.name for path in folder.iterdir()} == {submission.path.name, "manifest.json"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest == submission.manifest
    assert manifest["sha256"] == hashlib.sha256(submission.path.read_bytes()).hexdigest()
    assert manifest["format"] == submission_format.value
    assert (manifest["split"], manifest["num_rows"], manifest["method"]) == ("test", NUM_ROWS, "mean")
    assert [(one["name"], one["weight"], one["stage_hash"]) for one in manifest["members"]] == [
        ("a", 0.5, "hash-a"),
        ("b", 0.5, "hash-b"),
    ]
    assert manifest["members"][1]["predictions_sha256"] == "sha-b"
    assert manifest["members"][1]["checkpoint_sha256"] == "checkpoint-b"


def test_write_submission_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    config = SubmissionConfig(SubmissionFormat.probabilities)
    first = submit(tmp_path, config)
    content = first.path.read_bytes(), (tmp_path / "submission" / "manifest.json").read_bytes()
    second = submit(tmp_path, config)
    assert (second.path.read_bytes(), (tmp_path / "submission" / "manifest.json").read_bytes()) == content


def test_write_submission_other_format_replaces_the_file(tmp_path: Path) -> None:
    submit(tmp_path, SubmissionConfig(SubmissionFormat.ilsvrc))
    submit(tmp_path, SubmissionConfig(SubmissionFormat.labels))
    assert sorted(path.name for path in (tmp_path / "submission").iterdir()) == ["manifest.json", "submission.csv"]


def test_write_submission_bad_template_changes_nothing(tmp_path: Path) -> None:
    submit(tmp_path, SubmissionConfig(SubmissionFormat.ilsvrc))
    before = {path.name: path.read_bytes() for path in (tmp_path / "submission").iterdir()}
    template = tmp_path / "sample.csv"
    template.write_text("id,label\nelsewhere.png,0\n")
    with pytest.raises(ConfigError, match="elsewhere"):
        submit(tmp_path, SubmissionConfig(SubmissionFormat.labels, template=str(template)))
    assert {path.name: path.read_bytes() for path in (tmp_path / "submission").iterdir()} == before


def test_write_submission_failed_check_keeps_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submit(tmp_path, SubmissionConfig(SubmissionFormat.labels))
    before = {path.name: path.read_bytes() for path in (tmp_path / "submission").iterdir()}

    def last_line_lost(*arguments: object) -> list[str]:
        return list(file_lines(*arguments))[:-1]  # type: ignore[arg-type]

    monkeypatch.setattr("orchestrator.submission.file_lines", last_line_lost)
    with pytest.raises(CheckFailed, match="fewer lines"):
        submit(tmp_path, SubmissionConfig(SubmissionFormat.labels))
    assert {path.name: path.read_bytes() for path in (tmp_path / "submission").iterdir()} == before


@pytest.mark.parametrize("submission_format", ALL_FORMATS)
def test_write_submission_predictions_cut_after_their_check_keeps_the_last_one(
    tmp_path: Path, submission_format: SubmissionFormat
) -> None:
    config = SubmissionConfig(submission_format)
    submit(tmp_path, config)
    before = {path.name: path.read_bytes() for path in (tmp_path / "submission").iterdir()}
    members = tuple(store_member(tmp_path, name, seed, ()) for seed, name in enumerate(("a", "b")))
    content = members[1].path.read_bytes()
    members[1].path.write_bytes(content[:-4])
    provenance = {one.member: Provenance("main", f"hash-{one.member}") for one in members}
    with pytest.raises(CheckFailed, match="became shorter"):
        write_submission(tmp_path / "submission", config, make_data(), mean(members), members, provenance)
    assert {path.name: path.read_bytes() for path in (tmp_path / "submission").iterdir()} == before


def test_write_submission_unreadable_images_keep_their_rows_uniform(tmp_path: Path) -> None:
    submission = submit(tmp_path, SubmissionConfig(SubmissionFormat.probabilities), unreadable=(4, 29))
    lines = list(csv.reader(io.StringIO(submission.path.read_text())))[1:]
    assert len(lines) == NUM_ROWS
    for row in (4, 29):
        np.testing.assert_allclose(np.float64(lines[row][1:]), 1 / 7, rtol=1e-6)
    assert not np.allclose(np.float64(lines[5][1:]), 1 / 7)
    assert submission.manifest["unreadable"] == ["test_04.JPEG", "test_29.JPEG"]


def test_write_submission_ilsvrc_without_ids_says_so_in_the_manifest(tmp_path: Path) -> None:
    assert (
        "position in data/classes.txt"
        in submit(tmp_path, SubmissionConfig(SubmissionFormat.ilsvrc)).manifest["class_ids"]
    )
    ids = tmp_path / "ids.txt"
    ids.write_text("".join(f"{name} {index + 1}\n" for index, name in enumerate(CLASSES)))
    manifest = submit(tmp_path, SubmissionConfig(SubmissionFormat.ilsvrc, class_ids=str(ids))).manifest
    assert manifest["class_ids"] == "ids from submission.class_ids"
    assert manifest["class_ids_file"]["sha256"] == hashlib.sha256(ids.read_bytes()).hexdigest()


def test_ids_of_the_dataset_are_written_in_ilsvrc_alone_and_class_ids_beat_them(tmp_path: Path) -> None:
    data = replace(make_data(), class_ids=tuple(str(900 + index) for index in range(len(CLASSES))))
    own = ask(SubmissionConfig(SubmissionFormat.ilsvrc), data)
    assert names_of(own) == data.class_ids
    for other in set(ALL_FORMATS) - {SubmissionFormat.ilsvrc}:
        assert names_of(ask(SubmissionConfig(other), data)) == CLASSES
    ids = tmp_path / "ids.txt"
    ids.write_text("".join(f"{name} {index + 1}\n" for index, name in enumerate(CLASSES)))
    given = ask(SubmissionConfig(SubmissionFormat.ilsvrc, class_ids=str(ids)), data)
    assert names_of(given) == tuple(str(index + 1) for index in range(len(CLASSES)))
    # Read again by the dataset's ids; by positions every line would be of other classes.
    path = write(tmp_path / "file", own, make_layout(own), draw())
    check_submission(path, own, draw())
    with pytest.raises(CheckFailed):
        check_submission(path, replace(own, class_ids=None), draw())


def test_check_config_missing_files_are_config_errors(tmp_path: Path) -> None:
    check_config(SubmissionConfig())
    with pytest.raises(ConfigError, match=r"submission.template=.*nowhere.csv: No such file"):
        check_config(SubmissionConfig(template=str(tmp_path / "nowhere.csv")))
    with pytest.raises(ConfigError, match=r"submission.class_ids=.*nowhere.txt: No such file"):
        check_config(SubmissionConfig(class_ids=str(tmp_path / "nowhere.txt")))
