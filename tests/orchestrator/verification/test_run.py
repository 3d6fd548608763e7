"""A run is held against its digests and its submission made again; whatever was altered is told, all of it."""

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from whole_run import alter_predictions, commit

from orchestrator.cli.program import main
from orchestrator.config.composition import compose
from orchestrator.config.schema import CombineConfig, CombineMethod, SubmissionConfig, SubmissionFormat
from orchestrator.outputs import write_results
from orchestrator.report import plots
from orchestrator.run.digests import open_book
from orchestrator.run.holder import lock
from orchestrator.run.paths import RunPaths
from orchestrator.run.record import Committed, SubmissionDigests, read_record, write_record
from orchestrator.verification.run import verify
from workers.errors import CheckFailed
from workers.storage import atomic, checkpoint
from workers.storage.atomic import sha256_of

if TYPE_CHECKING:
    from conftest import Run

MakeRun = Callable[..., "Run"]
LABELS = SubmissionConfig()
MEAN = CombineConfig()


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes a second a report; test_report draws."""
    monkeypatch.setattr(plots, "learning_curves", lambda *_: b"png")
    monkeypatch.setattr(plots, "member_errors", lambda *_: b"png")


@pytest.fixture
def run(tmp_path: Path, make_run: MakeRun) -> "Run":
    whole = make_run(tmp_path / "run")
    atomic.write_text(whole.paths.config_yaml, compose([]).yaml)
    commit(whole, MEAN, LABELS)
    return whole


def told(paths: RunPaths, capsys: pytest.CaptureFixture[str], code: int) -> dict[str, Any]:
    """The document of `septet verify --json`, which must end with `code` and one line on stderr unless it is 0."""
    before = {path: path.stat().st_mtime_ns for path in paths.root.rglob("*")}
    assert main(["verify", str(paths.root), "--json"]) == code
    said = capsys.readouterr()
    assert said.err.count("\n") == (0 if code == 0 else 1)
    assert {path: path.stat().st_mtime_ns for path in paths.root.rglob("*")} == before, "verify changes nothing"
    document: dict[str, Any] = json.loads(said.out)
    assert document["ok"] == (code == 0) == (document["problems"] == [])
    return document


def forget(paths: RunPaths, **entries: Any) -> None:
    """Takes what was committed out of run.json, or puts `entries` of it there instead."""
    said = json.loads(paths.run_json.read_text())
    atomic.write_json(paths.run_json, said | {"committed": {**asdict(Committed()), **entries}})


@pytest.mark.parametrize("method", list(CombineMethod))
@pytest.mark.parametrize("submission", list(SubmissionFormat))
def test_verify_of_what_was_committed_finds_it_the_same_byte_for_byte(
    run: "Run", method: CombineMethod, submission: SubmissionFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    write_results(run.paths, run.plan, CombineConfig(method), SubmissionConfig(submission))
    with lock(run.paths):
        document = told(run.paths, capsys, 0)
    assert document["rebuilt"] and document["notes"] == []
    wanted = {"checkpoints": 5, "files of data": 10, "files of predictions": 12, "submission": 1, "scores": 1}
    assert document["checked"] == wanted
    assert document["manifest_sha256"] == sha256_of(run.paths.submission / "manifest.json")


def test_verify_after_submit_with_a_template_and_class_ids_finds_the_same(
    run: "Run", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (run.paths.data / "test.rows.txt").read_text().split()
    template = tmp_path / "sample.csv"
    template.write_text("name,breed\n" + "".join(f"{Path(row).stem},x\n" for row in reversed(rows)))
    ids = tmp_path / "ids.txt"
    classes = (run.paths.data / "classes.txt").read_text().split()
    ids.write_text("".join(f"{name} n{number}\n" for number, name in enumerate(classes)))
    words = [f"submission.template={template}", f"submission.class_ids={ids}", "combine=weighted"]
    assert main(["submit", str(run.paths.root), *words]) == 0
    capsys.readouterr()
    assert told(run.paths, capsys, 0)["rebuilt"]
    # What lay outside the run may be gone: the run still tells what its submission is made of.
    template.unlink()
    ids.unlink()
    document = told(run.paths, capsys, 0)
    assert document["rebuilt"] and "sample.csv: missing or changed" in document["notes"][0]


def test_verify_in_words_names_the_digest_to_keep(run: "Run", capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(run.paths.root)]) == 0
    said = capsys.readouterr().out
    assert "all as committed" in said and "same byte for byte" in said
    assert sha256_of(run.paths.submission / "manifest.json") in said


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    # The lowest bit of a float32's mantissa, near the end: still a probability and a weight like any other.
    content[-4] ^= 1
    path.write_bytes(bytes(content))


def alter_submission(paths: RunPaths) -> None:
    """Another class for the first image, and a manifest that fits it."""
    path = paths.submission / "submission.csv"
    lines = path.read_text().splitlines(keepends=True)
    lines[1] = lines[1].replace(lines[1].split(",")[1], "class11\n" if "class11" not in lines[1] else "class10\n")
    path.write_text("".join(lines))
    amend(paths.submission / "manifest.json", sha256=sha256_of(path))


def amend(path: Path, **values: Any) -> None:
    atomic.write_json(path, json.loads(path.read_text()) | values)


def alter_weights(paths: RunPaths) -> None:
    """Weights of a person's own, the file made from them, the manifest to fit."""
    record = read_record(paths)
    path = paths.submission / "manifest.json"
    said = json.loads(path.read_text())
    said["members"][0]["weight"], said["members"][1]["weight"] = 0.5, 0.0
    atomic.write_json(path, said)
    write_record(paths, record)


def alter_checkpoint(paths: RunPaths) -> None:
    """Other weights, with a manifest, sealed anew, and a DONE.json that fit them."""
    folder = paths.members / "base1" / "train" / "checkpoints" / "step-00000010"
    flip(folder / "model.safetensors")
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    del manifest["manifest_sha256"]
    manifest["files"]["model.safetensors"]["sha256"] = sha256_of(folder / "model.safetensors")
    (folder / "MANIFEST.json").write_bytes(checkpoint._sealed(manifest))
    amend(paths.members / "base1" / "train" / "DONE.json", checkpoint_sha256=sha256_of(folder / "model.safetensors"))


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (lambda paths: alter_predictions(paths, "base2", "test"), ["base2", "test.npy was altered"]),
        (lambda paths: alter_predictions(paths, "base2", "dev"), ["base2", "dev.npy was altered"]),
        (lambda paths: flip(paths.predictions("deep1") / "val.npy"), ["deep1", "sha256"]),
        (alter_submission, ["submission.csv or its manifest was altered"]),
        (alter_weights, ["weights"]),
        (alter_checkpoint, ["base1/train: its checkpoint was altered"]),
        (lambda paths: flip(next(paths.root.rglob("optimizer.safetensors"))), ["optimizer.safetensors differs"]),
        (lambda paths: shutil.rmtree(paths.members / "deep1" / "pretrain" / "checkpoints"), ["deep1", "MANIFEST.json"]),
        (lambda paths: flip(paths.data / "val.labels.npy"), ["has labels outside its 12 classes"]),
        (lambda paths: np.save(paths.data / "val.labels.npy", np.zeros(80, np.int64)), ["val.labels.npy was altered"]),
        (lambda paths: (paths.data / "val.labels.npy").unlink(), ["val.labels.npy: deleted"]),
        (lambda paths: (paths.submission / "submission.csv").unlink(), ["submission.csv: missing"]),
        (lambda paths: (paths.submission / "submission.txt").write_text("1\n"), ["submission.txt: is beside"]),
        (lambda paths: (paths.submission / "manifest.json").write_text("{"), ["manifest.json: damaged"]),
        (lambda paths: amend(paths.report / "scores.json", num_images=7), ["scores.json: num_images"]),
    ],
)
def test_verify_finds_what_was_altered_even_with_what_describes_it(
    run: "Run", alter: Callable[[RunPaths], None], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    alter(run.paths)
    problems = told(run.paths, capsys, 8)["problems"]
    assert any(all(word in problem for word in words) for problem in problems), problems


def test_verify_tells_what_is_not_recorded(run: "Run", capsys: pytest.CaptureFixture[str]) -> None:
    forget(run.paths)
    problems = " | ".join(told(run.paths, capsys, 8)["problems"])
    for what in ("base1/train: its checkpoint", "data/classes.txt", "base2/predictions/dev.npy"):
        assert f"{what} is not recorded in run.json" in problems
    assert "submission.csv or its manifest was altered" in problems
    with pytest.raises(CheckFailed, match=r"classes\.txt is not recorded in run\.json"):
        write_results(run.paths, run.plan, MEAN, LABELS)


def test_verify_lists_every_problem_and_goes_on_after_the_first(run: "Run", capsys: pytest.CaptureFixture[str]) -> None:
    alter_checkpoint(run.paths)
    alter_predictions(run.paths, "base2", "test")
    flip(run.paths.predictions("base3") / "val.npy")
    (run.paths.predictions("deep1") / "dev.npy").unlink()
    problems = " | ".join(told(run.paths, capsys, 8)["problems"])
    assert all(word in problems for word in ("base1/train", "base2", "base3", "member deep1: no predictions of dev"))


def test_verify_of_a_run_that_is_not_at_its_end_says_what_is_not_there_and_exits_4(
    run: "Run", capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(run.paths.submission)
    shutil.rmtree(run.paths.members / "base3")
    document = told(run.paths, capsys, 4)
    assert document["problems"] == ["submission: not written yet", "base3/train: not finished"]
    assert set(document["kinds"]) == {"missing"}


def test_verify_where_no_run_is_exits_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path / "nowhere")]) == 3
    assert "no run directory there" in capsys.readouterr().err


@pytest.mark.parametrize("stop_at", ["manifest", "announce", "place"])
def test_writer_of_a_submission_killed_at_any_point_is_no_forger(
    run: "Run", stop_at: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another submission, cut off before its manifest, after its announcement, and after both have their place."""

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    book = open_book(run.paths)
    if stop_at == "announce":
        announce = book.announce
        monkeypatch.setattr(book, "announce", lambda digests: (announce(digests), kill()))
    elif stop_at == "manifest":
        write = atomic.write_text

        def write_all_but_the_manifest(path: Path, text: str) -> None:
            write(path, text) if path.name != "manifest.json" else kill()

        monkeypatch.setattr("orchestrator.submission.write.write_text", write_all_but_the_manifest)
    else:
        monkeypatch.setattr(book, "submission", kill)
    with pytest.raises(Killed):
        write_results(run.paths, run.plan, CombineConfig(CombineMethod.geometric), LABELS, book)
    monkeypatch.undo()
    monkeypatch.setattr(plots, "learning_curves", lambda *_: b"png")
    monkeypatch.setattr(plots, "member_errors", lambda *_: b"png")
    problems = [problem.what for problem in verify(run.paths).problems]
    # Old or new, whole; the scores are still those of the old one.
    assert all("scores.json" in problem for problem in problems)
    write_results(run.paths, run.plan, CombineConfig(CombineMethod.geometric), LABELS)
    assert told(run.paths, capsys, 0)["rebuilt"]
    assert open_book(run.paths).committed.announced is None


def test_two_writers_killed_in_a_row_are_no_forgers(run: "Run", monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one's submission had its place and was not noted yet; the second had only announced its own."""

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    first, second = open_book(run.paths), open_book(run.paths)
    monkeypatch.setattr(first, "submission", kill)
    announce = second.announce
    monkeypatch.setattr(second, "announce", lambda digests: (announce(digests), kill()))
    for book, method in ((first, CombineMethod.geometric), (second, CombineMethod.weighted)):
        with pytest.raises(Killed):
            write_results(run.paths, run.plan, CombineConfig(method), LABELS, book)
        assert not [problem.what for problem in verify(run.paths).problems if "submission" in problem.what]


def test_submit_over_altered_predictions_exits_8_and_leaves_the_last_submission(
    run: "Run", capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in run.paths.submission.iterdir()}
    alter_predictions(run.paths, "base2", "test")
    assert main(["submit", str(run.paths.root), "combine=geometric"]) == 8
    assert "base2" in (said := capsys.readouterr().err) and "altered since it was committed" in said
    assert {path: path.read_bytes() for path in run.paths.submission.iterdir()} == before


@pytest.mark.parametrize("name", ["classes.txt", "val.labels.npy"])
def test_submit_over_altered_data_is_refused(run: "Run", name: str) -> None:
    path = run.paths.data / name
    if name == "classes.txt":
        path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    else:
        flip(path)
    with pytest.raises(CheckFailed, match=f"{name} was altered"):
        write_results(run.paths, run.plan, MEAN, LABELS)


def test_committed_survives_run_json(run: "Run") -> None:
    digests = SubmissionDigests("submission.csv", "a", "b")
    book = open_book(run.paths)
    book.announce(digests)
    again = read_record(run.paths).committed
    assert again == book.committed and again.announced == digests
    assert replace(again, announced=None) != Committed()


def test_shuffled_rows_of_one_member_are_found_by_the_rebuilt_submission_alone(
    run: "Run", capsys: pytest.CaptureFixture[str]
) -> None:
    # Whatever the record says: a manifest that is made to fit still cannot make the file come out the same.
    forget(run.paths)
    array = run.paths.predictions("base1") / "test.npy"
    np.save(array, np.roll(np.load(array), 1, axis=0))
    amend(array.with_suffix(".json"), sha256=sha256_of(array))
    said = json.loads((run.paths.submission / "manifest.json").read_text())
    said["members"][0]["predictions_sha256"] = sha256_of(array)
    atomic.write_json(run.paths.submission / "manifest.json", said)
    document = told(run.paths, capsys, 8)
    assert any("differs from the submission made again: line" in problem for problem in document["problems"])
    assert not document["rebuilt"]


@pytest.mark.parametrize(
    ("verb", "reader"),
    [
        ("verify", "orchestrator.run.digests.sha256_of"),
        ("verify", "orchestrator.verification.submission.sha256_of"),
        ("verify", "workers.storage.checkpoint._read_own"),
        ("submit", "orchestrator.run.data.np.load"),
        ("submit", "orchestrator.combine.predictions.np.load"),
        ("explain", "orchestrator.combine.predictions.os.preadv"),
    ],
)
def test_storage_that_does_not_answer_is_told_as_storage_and_nothing_is_said_of_the_files(
    run: "Run", verb: str, reader: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def refuse(*_: object, **__: object) -> None:
        asked.append(reader)
        raise OSError(errno.EACCES, "Permission denied")

    rows = (run.paths.data / "test.rows.txt").read_text().split()
    monkeypatch.setattr(reader, refuse)
    assert main([verb, str(run.paths.root), *([rows[0]] if verb == "explain" else [])]) == 7
    assert asked
    assert "Permission denied" in capsys.readouterr().err
