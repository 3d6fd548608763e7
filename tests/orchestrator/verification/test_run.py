"""A run is held against its digests and its submission made again; whatever was altered is told, all of it."""

import errno
import itertools
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from verified import amend, flip, told
from whole_run import alter_predictions, understate

from orchestrator.cli.program import main
from orchestrator.config.schema import Calibrator, CombineConfig, CombineMethod, SubmissionConfig, SubmissionFormat
from orchestrator.outputs import write_results
from orchestrator.run.holder import lock
from orchestrator.run.record import Committed
from orchestrator.verification.run import verify
from workers.errors import CheckFailed
from workers.storage import atomic, checkpoint
from workers.storage.atomic import sha256_of

pytestmark = pytest.mark.usefixtures("no_drawing")
LABELS = SubmissionConfig()
MEAN = CombineConfig()


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


@pytest.mark.slow
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


def alter_submission(paths):
    """Another class for the first image, and a manifest that fits it."""
    path = paths.submission / "submission.csv"
    lines = path.read_text().splitlines(keepends=True)
    lines[1] = lines[1].replace(lines[1].split(",")[1], "class11\n" if "class11" not in lines[1] else "class10\n")
    path.write_text("".join(lines))
    amend(paths.submission / "manifest.json", sha256=sha256_of(path))


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


def amend_bin(paths):
    path = paths.report / "scores.json"
    scores = json.loads(path.read_text())
    scores["calibration"]["before"]["equal_mass"][0]["num_images"] += 1
    path.write_text(json.dumps(scores))


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
        (amend_bin, ["scores.json: calibration.before.equal_mass[0].num_images"]),
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


def test_verify_takes_costs_that_the_ledger_no_longer_tells_and_scores_with_fewer_or_other_parts(run):
    amend_worth(run.paths, core_seconds=dict.fromkeys(run.plan.members, 5.0))
    assert verify(run.paths).problems == ()
    scores = json.loads((run.paths.report / "scores.json").read_text())
    del scores["worth"], scores["gain"], scores["calibration"]["before"]["equal_mass"]
    scores["parts"] = {"classes": {"macro_f1": 0.5}}
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
