"""A run is held against its digests and its submission made again; whatever was altered is told, all of it."""

import errno
import itertools
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from record_committed import record_committed
from whole_run import alter_predictions, commit

from orchestrator.cli.program import main
from orchestrator.config.composition import compose
from orchestrator.config.schema import Calibrator, CombineConfig, CombineMethod, SubmissionConfig, SubmissionFormat
from orchestrator.outputs import write_results
from orchestrator.run.digests import open_book
from orchestrator.run.holder import is_locked, lock
from orchestrator.run.paths import RunPaths
from orchestrator.run.record import Committed
from orchestrator.verification.run import verify
from workers.errors import CheckFailed
from workers.storage import atomic, checkpoint
from workers.storage.atomic import sha256_of

pytestmark = pytest.mark.usefixtures("no_drawing")
LABELS = SubmissionConfig()
MEAN = CombineConfig()


@pytest.fixture(scope="module")
def whole(no_drawing, make_run, tmp_path_factory):
    """A finished run, made once: each test has a copy."""
    run = make_run(tmp_path_factory.mktemp("whole") / "run")
    atomic.write_text(run.paths.config_yaml, compose([]).yaml)
    commit(run, MEAN, LABELS)
    return run


@pytest.fixture
def run(whole, tmp_path):
    shutil.copytree(whole.paths.root, tmp_path / "run")
    return replace(whole, paths=RunPaths(tmp_path / "run"))


def told(paths, capsys, code):
    """The document of `septet verify --json`, which must end with `code` and one line on stderr unless it is 0."""
    before = {path: path.stat().st_mtime_ns for path in paths.root.rglob("*")}
    assert main(["verify", str(paths.root), "--json"]) == code
    said = capsys.readouterr()
    assert said.err.count("\n") == (0 if code == 0 else 1)
    assert {path: path.stat().st_mtime_ns for path in paths.root.rglob("*")} == before, "verify changes nothing"
    document: dict[str, Any] = json.loads(said.out)
    assert document["ok"] == (code == 0) == (document["problems"] == [])
    return document


def forget(paths, **entries):
    """Takes what was committed out of run.json, or puts `entries` of it there instead."""
    said = json.loads(paths.run_json.read_text())
    atomic.write_json(paths.run_json, said | {"committed": {**asdict(Committed()), **entries}})


@pytest.mark.parametrize(
    ("method", "submission"), list(zip(itertools.cycle(CombineMethod), SubmissionFormat, strict=False))
)
def test_verify_of_what_was_committed_finds_it_the_same_byte_for_byte(run, method, submission, capsys):
    write_results(run.paths, run.plan, CombineConfig(method), SubmissionConfig(submission))
    with lock(run.paths):
        document = told(run.paths, capsys, 0)
    assert document["rebuilt"] and document["notes"] == []
    wanted = {"checkpoints": 5, "files of data": 10, "files of predictions": 12, "submission": 1, "scores": 1}
    assert document["checked"] == wanted
    digest = sha256_of(run.paths.submission / "manifest.json")
    assert document["manifest_sha256"] == digest
    assert main(["verify", str(run.paths.root)]) == 0
    said = capsys.readouterr().out
    assert all(words in said for words in ("all as committed", "same byte for byte", digest))


@pytest.mark.parametrize("method", [CombineMethod.mean, CombineMethod.stacked])
@pytest.mark.parametrize("calibration", [one for one in Calibrator if one is not Calibrator.none])
def test_verify_fits_a_calibration_again(run, method, calibration, capsys):
    understate(run)
    write_results(run.paths, run.plan, CombineConfig(method, calibration=calibration), SubmissionConfig())
    assert told(run.paths, capsys, 0)["rebuilt"]
    path = run.paths.submission / "manifest.json"
    said = json.loads(path.read_text())["calibration"]
    amend(path, calibration=said | {"numbers": nudged(said["numbers"])})
    problems = " | ".join(told(run.paths, capsys, 8)["problems"])
    assert "calibration.numbers" in problems and "of the manifest are not what the predictions give" in problems


def understate(run):
    """Makes every member less sure than it could be."""
    for member, split in itertools.product(run.plan.members, ("dev", "val", "test")):
        array = run.paths.predictions(member) / f"{split}.npy"
        rows = np.load(array) ** 0.3
        np.save(array, rows / rows.sum(axis=1, keepdims=True))
        amend(array.with_suffix(".json"), sha256=sha256_of(array))
    record_committed(run.paths, run.plan)


def nudged(numbers):
    """The same numbers, the first one further off than rounding."""
    head = nudged(numbers[0]) if isinstance(numbers[0], list) else numbers[0] + 1e-5
    return [head, *numbers[1:]]


def test_verify_after_submit_with_a_template_and_class_ids_finds_the_same(run, tmp_path, capsys):
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


def test_verify_reads_the_averaged_weights_that_done_names_and_tells_a_changed_bit(run, capsys):
    done = run.paths.done(run.plan.stages[0].ref)
    final = run.paths.checkpoints(run.plan.stages[0].ref) / json.loads(done.read_text())["checkpoint"]
    weights = checkpoint.read_weights(final).model
    averaged = checkpoint.write_checkpoint(final.parent, 10, weights, None, {"train": {}}, {"stage_hash": "x"}).folder
    amend(done, checkpoint=averaged.name)
    shutil.rmtree(final)
    assert told(run.paths, capsys, 0)["checked"]["checkpoints"] == 5
    flip(averaged / "model.safetensors")
    (problem,) = told(run.paths, capsys, 8)["problems"]
    assert "averaged-00000010: model.safetensors differs from its sha256" in problem


def flip(path):
    content = bytearray(path.read_bytes())
    # The lowest bit of a float32's mantissa, near the end: still a probability and a weight like any other.
    content[-4] ^= 1
    path.write_bytes(bytes(content))


def alter_submission(paths):
    """Another class for the first image, and a manifest that fits it."""
    path = paths.submission / "submission.csv"
    lines = path.read_text().splitlines(keepends=True)
    lines[1] = lines[1].replace(lines[1].split(",")[1], "class11\n" if "class11" not in lines[1] else "class10\n")
    path.write_text("".join(lines))
    amend(paths.submission / "manifest.json", sha256=sha256_of(path))


def amend(path, **values):
    atomic.write_json(path, json.loads(path.read_text()) | values)


def alter_uncertainty(paths):
    path = paths.submission / "uncertainty.parquet"
    table = parquet.read_table(path).to_pydict()
    table["entropy"][5] += 2e-6
    parquet.write_table(pa.table(table, parquet.read_schema(path)), path)


def alter_threshold(paths):
    """A set's threshold of a person's own in the manifest, with the sets that it gives."""
    path = paths.submission / "manifest.json"
    sets = json.loads(path.read_text())["sets"]
    amend(path, sets=sets | {"threshold": sets["threshold"] + 1e-4})


def alter_weights(paths):
    """Weights of a person's own in the manifest."""
    path = paths.submission / "manifest.json"
    members = json.loads(path.read_text())["members"]
    members[0]["weight"], members[1]["weight"] = 0.5, 0.0
    amend(path, members=members)


def alter_checkpoint(paths):
    """Writes other weights, with a manifest sealed again and a DONE.json that fit them."""
    folder = paths.members / "base1" / "train" / "checkpoints" / "step-00000010"
    flip(folder / "model.safetensors")
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    del manifest["manifest_sha256"]
    manifest["files"]["model.safetensors"]["sha256"] = sha256_of(folder / "model.safetensors")
    (folder / "MANIFEST.json").write_bytes(checkpoint.sealed(manifest))
    amend(paths.members / "base1" / "train" / "DONE.json", checkpoint_sha256=sha256_of(folder / "model.safetensors"))


def amend_worth(paths, **changes):
    path = paths.report / "scores.json"
    amend(path, worth={**json.loads(path.read_text())["worth"], **changes})


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (lambda paths: alter_predictions(paths, "base2", "test"), ["base2", "test.npy was altered"]),
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
        (lambda paths: amend_worth(paths, loss=0.0), ["scores.json: worth.loss"]),
        (lambda paths: amend_worth(paths, metric="fun"), ["scores.json: worth"]),
        (lambda paths: (paths.submission / "uncertainty.parquet").unlink(), ["uncertainty.parquet", "cannot be read"]),
        (lambda paths: flip(paths.submission / "uncertainty.parquet"), ["uncertainty.parquet", "cannot be read"]),
        (alter_uncertainty, ["uncertainty.parquet", "test_000.png or one of the 80 images"]),
        (alter_threshold, ["sets.threshold of the manifest"]),
    ],
)
def test_verify_finds_what_was_altered_even_with_what_describes_it(run, alter, words, capsys):
    alter(run.paths)
    problems = told(run.paths, capsys, 8)["problems"]
    assert any(all(word in problem for word in words) for problem in problems), problems


def test_verify_takes_costs_that_the_ledger_no_longer_tells_and_scores_without_worth(run):
    amend_worth(run.paths, core_seconds=dict.fromkeys(run.plan.members, 5.0))
    assert verify(run.paths).problems == ()
    scores = json.loads((run.paths.report / "scores.json").read_text())
    del scores["worth"]
    (run.paths.report / "scores.json").write_text(json.dumps(scores))
    assert verify(run.paths).problems == ()


def test_verify_tells_what_is_not_recorded(run, capsys):
    forget(run.paths)
    problems = " | ".join(told(run.paths, capsys, 8)["problems"])
    for what in ("base1/train: its checkpoint", "data/classes.txt", "base2/predictions/dev.npy"):
        assert f"{what} is not recorded in run.json" in problems
    assert "submission.csv or its manifest was altered" in problems
    with pytest.raises(CheckFailed, match=r"classes\.txt is not recorded in run\.json"):
        write_results(run.paths, run.plan, MEAN, LABELS)


def test_verify_lists_every_problem_and_goes_on_after_the_first(run, capsys):
    alter_checkpoint(run.paths)
    alter_predictions(run.paths, "base2", "test")
    flip(run.paths.predictions("base3") / "val.npy")
    (run.paths.predictions("deep1") / "dev.npy").unlink()
    problems = " | ".join(told(run.paths, capsys, 8)["problems"])
    assert all(word in problems for word in ("base1/train", "base2", "base3", "member deep1: no predictions of dev"))


def test_verify_of_a_run_that_is_not_at_its_end_says_what_is_not_there_and_exits_4(run, capsys):
    shutil.rmtree(run.paths.submission)
    shutil.rmtree(run.paths.members / "base3")
    document = told(run.paths, capsys, 4)
    assert document["problems"] == ["submission: not written yet", "base3/train: not finished"]
    assert set(document["kinds"]) == {"missing"}


def test_verify_where_no_run_is_exits_3(tmp_path, capsys):
    assert main(["verify", str(tmp_path / "nowhere")]) == 3
    assert "no run directory there" in capsys.readouterr().err


class Killed(BaseException):
    pass


def kill(*_):
    raise Killed


def kill_at(step, book, monkeypatch):
    """Ends a writer before its manifest, after its announcement, or once both have their place and are not noted."""
    if step == "announce":
        announce = book.announce
        monkeypatch.setattr(book, "announce", lambda digests: (announce(digests), kill()))
    elif step == "place":
        monkeypatch.setattr(book, "submission", kill)
    else:
        write = atomic.write_text
        monkeypatch.setattr(
            "orchestrator.submission.write.write_text",
            lambda path, text: write(path, text) if path.name != "manifest.json" else kill(),
        )


@pytest.mark.parametrize("step", ["manifest", "announce", "place"])
def test_writer_of_a_submission_killed_at_any_point_is_no_forger(run, step, monkeypatch, capsys):
    other = CombineConfig(CombineMethod.geometric)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(step, book := open_book(run.paths), patch)
        write_results(run.paths, run.plan, other, LABELS, book)
    # Old or new, whole; the scores are still those of the old one.
    assert all("scores.json" in problem.what for problem in verify(run.paths).problems)
    write_results(run.paths, run.plan, other, LABELS)
    assert told(run.paths, capsys, 0)["rebuilt"]
    assert open_book(run.paths).committed.announced is None


def test_two_writers_killed_in_a_row_are_no_forgers(run, monkeypatch):
    """The first one's submission had its place and was not noted yet; the second had only announced its own."""
    first, second = open_book(run.paths), open_book(run.paths)
    kill_at("place", first, monkeypatch)
    kill_at("announce", second, monkeypatch)
    for book, method in ((first, CombineMethod.geometric), (second, CombineMethod.weighted)):
        with pytest.raises(Killed):
            write_results(run.paths, run.plan, CombineConfig(method), LABELS, book)
        assert not [problem.what for problem in verify(run.paths).problems if "submission" in problem.what]


def spoil(paths):
    """One NaN, and a manifest that fits the array."""
    array = paths.predictions("base2") / "test.npy"
    rows = np.load(array)
    rows[11, 0] = np.nan
    np.save(array, rows)
    amend(array.with_suffix(".json"), sha256=sha256_of(array))


def misname(paths, **values):
    amend(paths.predictions("base2") / "test.json", **values)


@pytest.mark.parametrize(
    ("alter", "code", "words"),
    [
        (lambda paths: alter_predictions(paths, "base2", "test"), 8, ("base2", "altered since it was committed")),
        (lambda paths: flip(paths.data / "val.labels.npy"), 8, ("val.labels.npy was altered",)),
        (lambda paths: flip(paths.data / "classes.txt"), 8, ("classes.txt was altered",)),
        (lambda paths: (paths.predictions("base2") / "test.npy").unlink(), 4, ("base2: no predictions of test",)),
        (spoil, 8, ("11 (test_011.png)",)),
        (lambda paths: misname(paths, rows_sha256="e" * 64), 8, ("of other images than data/test.rows.txt",)),
        (lambda paths: misname(paths, data_digest="e" * 64), 8, ("content is not that of data/",)),
        (lambda paths: misname(paths, checkpoint_sha256="e" * 64), 8, ("of another checkpoint",)),
    ],
)
def test_submit_over_altered_files_tells_it_in_a_line_and_leaves_the_last_submission(run, alter, code, words, capsys):
    before = {path: path.read_bytes() for path in run.paths.submission.iterdir()}
    alter(run.paths)
    assert main(["submit", str(run.paths.root), "combine=geometric"]) == code
    said = capsys.readouterr().err
    assert all(word in said for word in words) and said.count("\n") == 1
    assert {path: path.read_bytes() for path in run.paths.submission.iterdir()} == before
    assert not is_locked(run.paths) and not list(run.paths.root.rglob(f"{atomic.TEMPORARY_PREFIX}*"))


def test_shuffled_rows_of_one_member_are_found_by_the_rebuilt_submission_alone(run, capsys):
    # With every record made to fit, the submission still cannot come out the same.
    array = run.paths.predictions("base1") / "test.npy"
    np.save(array, np.roll(np.load(array), 1, axis=0))
    amend(array.with_suffix(".json"), sha256=sha256_of(array))
    said = json.loads((run.paths.submission / "manifest.json").read_text())
    said["members"][0]["predictions_sha256"] = sha256_of(array)
    atomic.write_json(run.paths.submission / "manifest.json", said)
    recorded = json.loads(run.paths.run_json.read_text())
    recorded["committed"]["predictions"]["base1"]["test"] = sha256_of(array)
    recorded["committed"]["submission"]["manifest_sha256"] = sha256_of(run.paths.submission / "manifest.json")
    atomic.write_json(run.paths.run_json, recorded)
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
    run, verb, reader, monkeypatch, capsys
):
    asked = []

    def refuse(*_, **__):
        asked.append(reader)
        raise OSError(errno.EACCES, "Permission denied")

    rows = (run.paths.data / "test.rows.txt").read_text().split()
    monkeypatch.setattr(reader, refuse)
    assert main([verb, str(run.paths.root), *([rows[0]] if verb == "explain" else [])]) == 7
    assert asked
    assert "Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["mean", "weighted"])
def test_submit_without_a_member_says_so_everywhere_and_is_verified(run, method, capsys):
    paths = run.paths
    kept = ["base1", "base2", "deep1"]
    assert (
        main(["submit", str(paths.root), f"combine={method}", "combine.without=[base3]", "submission=probabilities"])
        == 0
    )
    assert "MISSING: base3 is not in any row and not in the submission (left out by combine.without)" in (
        capsys.readouterr().out
    )
    manifest = json.loads(paths.submission_manifest.read_text())
    assert sorted(member["name"] for member in manifest["members"]) == kept and set(manifest["weights"]) == set(kept)
    assert manifest["missing"] == [{"member": "base3", "why": "left out by combine.without"}]
    document = told(paths, capsys, 0)
    assert document["rebuilt"] and "without base3 (left out by combine.without)" in document["notes"][0]
    if method == "mean":
        rows = [np.load(paths.predictions(name) / "test.npy")[0] for name in kept]
        first = (paths.submission / "submission.csv").read_text().splitlines()[1].split(",")
        np.testing.assert_allclose(np.array(first[1:], dtype=float), np.mean(rows, axis=0), rtol=1e-6)
        assert main(["explain", str(paths.root), first[0], "--json"]) == 0
        assert [member["name"] for member in json.loads(capsys.readouterr().out)["members"]] == kept
    before = paths.report_scores.read_bytes()
    assert main(["report", str(paths.root)]) == 0
    assert paths.report_scores.read_bytes() == before
    assert main(["submit", str(paths.root)]) == 0
    assert json.loads(paths.submission_manifest.read_text())["missing"] == []


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("base4", "no member base4; did you mean base3? (known: base1, base2, base3, deep1)"),
        ("base1,base2,base3,deep1", "leaves no member to combine"),
    ],
)
def test_submit_that_leaves_out_a_stranger_or_everybody_exits_2_and_leaves_the_last(run, names, words, capsys):
    before = run.paths.submission_manifest.read_bytes()
    assert main(["submit", str(run.paths.root), f"combine.without=[{names}]"]) == 2
    assert words in capsys.readouterr().err
    assert run.paths.submission_manifest.read_bytes() == before
