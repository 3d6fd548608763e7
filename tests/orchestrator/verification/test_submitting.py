"""A submission that is written again: by a killed writer, over altered files, without some members."""

import json

import numpy as np
import pytest
from verified import amend, flip, told
from whole_run import alter_predictions

from orchestrator.cli.program import main
from orchestrator.config.schema import CombineConfig, CombineMethod, SubmissionConfig
from orchestrator.outputs import write_results
from orchestrator.run.digests import open_book
from orchestrator.run.holder import is_locked
from orchestrator.verification.run import verify
from workers.storage import atomic
from workers.storage.atomic import sha256_of

pytestmark = pytest.mark.usefixtures("no_drawing")
LABELS = SubmissionConfig()
MEAN = CombineConfig()


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


@pytest.mark.slow
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
