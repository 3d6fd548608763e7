"""Labels that may be wrong, from stored predictions to a run with corrected ones."""

import csv
import json
import re
import shlex
import shutil
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
from record_committed import record_committed
from small_folds import SMALL, launch

from orchestrator.cli.program import main
from orchestrator.config.composition import compose
from orchestrator.config.schema import CombineConfig, SubmissionConfig
from orchestrator.outputs import write_results
from orchestrator.plan import plan_from_json
from orchestrator.run import RunPaths, read_record, read_run_data
from orchestrator.run.record import write_record
from orchestrator.verification.run import verify
from workers.storage import atomic, sha256_of

pytestmark = pytest.mark.usefixtures("no_drawing")
WRONG = (3, 50, 400, 401, 900)


@pytest.fixture(scope="module")
def launched(no_drawing, tmp_path_factory):
    place = tmp_path_factory.mktemp("reviewed")
    assert launch(place, "ensemble=folds") == 0
    return place


@pytest.fixture
def run(launched, tmp_path):
    shutil.copytree(launched / "run", tmp_path / "run")
    paths = RunPaths(tmp_path / "run")
    know(paths, WRONG)
    return paths


def plan_of(paths):
    return plan_from_json(read_record(paths).plan)


def know(paths, wrong):
    """Members that know every label but those of the rows `wrong`, which they surely take for the next class."""
    data, plan = read_run_data(paths.data), plan_of(paths)
    answers = data.labels("oof").copy()
    answers[list(wrong)] = (answers[list(wrong)] + 1) % 10
    sure = np.full(len(answers), 0.9)
    sure[list(wrong)] = 0.95
    shares = sure[:, None] * (np.arange(10) == answers[:, None]) + 0.005
    for member in plan.members:
        array = paths.predictions(member) / "oof.npy"
        own = shares[data.rows_of(plan.fold(member))]
        np.save(array, (own / own.sum(axis=1, keepdims=True)).astype(np.float32))
        about = array.with_suffix(".json")
        atomic.write_json(about, json.loads(about.read_text()) | {"sha256": sha256_of(array)})
    record_committed(paths, plan)


def results(paths, **combine):
    return write_results(paths, plan_of(paths), CombineConfig(**combine), SubmissionConfig())


def listed(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def fill_in(path, answers):
    lines = [line | {"correct": answers.get(line["id"], "")} for line in listed(path)]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return path.read_bytes()


def test_planted_labels_are_listed_with_what_the_members_say(run):
    text = results(run).table_text
    data = read_run_data(run.data)
    lines = listed(run.review(1))
    assert {line["id"] for line in lines} == {data.splits["oof"].rows[row] for row in WRONG}
    for line in lines:
        label = data.labels("oof")[data.splits["oof"].rows.index(line["id"])]
        assert (line["label"], line["suggestion"]) == (str(label), str((label + 1) % 10))
        assert float(line["label_probability"]) < 0.01 < 0.9 < float(line["suggestion_probability"])
        assert line["correct"] == ""
    total = len(data.labels("oof"))
    assert f"REVIEW: 5 of {total:,} labels may be wrong (report/review.csv, report/review.html)." in text
    assert json.loads(run.report_scores.read_text())["review"]["num_issues"] == 5
    assert f'<a href="review.html">5 of {total:,}</a>' in run.report_page.read_text()


def test_where_no_label_looks_wrong_the_list_is_empty_and_the_page_says_so(run):
    know(run, ())
    assert "REVIEW: 0 of" in results(run).table_text
    assert listed(run.review(1)) == []
    assert "The members contradict no label." in run.review_page.read_text()


def test_page_has_the_pictures_of_the_store_and_needs_nothing_else(run):
    results(run)
    page = run.review_page.read_text()
    pictures = re.findall(r'<img src="data:image/png;base64,[^"]+" alt="[^"]+: labelled \d, suggested \d">', page)
    assert len(pictures) == 5
    assert "http" not in page and "<script" not in page and len(page) < 100_000
    assert f"datasets.target.relabel={run.review(1)}" in page and "run_dir=" not in page


def typed(page):
    """The overrides of the command that the page shows."""
    command = re.search("<pre><code>(.*?)</code></pre>", page.read_text(), re.DOTALL)
    return shlex.split(unescape(command[1]))[2:]


def test_page_of_a_place_with_odd_characters_shows_a_command_that_finds_its_file(run):
    odd = RunPaths(run.root.rename(run.root.with_name("it's [1], x=y")))
    results(odd)
    asked = [word for word in typed(odd.review_page) if "relabel" in word]
    assert compose(["ensemble=folds", *asked]).datasets["target"].relabel == str(odd.review(1))


def test_page_of_a_run_with_corrected_labels_does_not_take_them_back(run):
    record = read_record(run)
    target = record.plan["datasets"][0]
    record.plan["datasets"][0] = target | {"options": target["options"] | {"relabel": "0123456789abcdef"}}
    kept = (*record.command, "datasets.target.relabel=first.csv")
    write_record(run, replace(record, command=kept))
    results(run)
    asked = [word for word in typed(run.review_page) if "relabel" in word]
    assert asked == ["datasets.target.relabel=first.csv"]
    assert "Add the new lines to the file of those" in run.review_page.read_text()


def test_without_the_store_the_page_is_a_list_and_says_so(run, launched):
    (launched / "store").rename(launched / "elsewhere")
    try:
        results(run)
    finally:
        (launched / "elsewhere").rename(launched / "store")
    page = run.review_page.read_text()
    assert "There are no pictures" in page and "<img" not in page
    assert page.count("<li>") == 3 + 5


def test_submission_without_a_fold_leaves_the_list_and_no_page_of_an_earlier_one(run):
    results(run)
    before = run.review(1).read_bytes()
    results(run, without=(plan_of(run).members[0],))
    assert not run.review_page.exists() and "review.html" not in run.report_page.read_text()
    assert run.review(1).read_bytes() == before


def test_file_that_was_filled_in_is_never_written_again(run):
    results(run)
    row = listed(run.review(1))[0]["id"]
    kept = fill_in(run.review(1), {row: "7"})
    assert "(report/review.csv, report/review.html)" in results(run).table_text, "the same list is not written beside"
    assert run.review(1).read_bytes() == kept and not run.review(2).exists()
    know(run, WRONG[:2])
    said = results(run).table_text
    assert "report/review-2.csv" in said and "review.csv has answers and stays as it is" in said
    assert run.review(1).read_bytes() == kept
    assert len(listed(run.review(2))) == 2
    # Nobody filled in the second one, so it is written again.
    know(run, WRONG[:3])
    results(run)
    assert len(listed(run.review(2))) == 3 and not run.review(3).exists()


@pytest.mark.parametrize("content", [b"id;label\n1;2\n", b"\xff\xfe\x00", b"", b'id,"x\n'])
def test_file_of_another_form_counts_as_filled_in(run, content):
    run.report.mkdir(exist_ok=True)
    run.review(1).write_bytes(content)
    results(run)
    assert run.review(1).read_bytes() == content
    assert len(listed(run.review(2))) == 5


def test_verify_computes_the_counts_again_and_lets_a_person_fill_in(run):
    results(run)
    fill_in(run.review(1), {listed(run.review(1))[0]["id"]: "-"})
    assert verify(run).ok
    scores = json.loads(run.report_scores.read_text())
    atomic.write_json(run.report_scores, scores | {"review": scores["review"] | {"num_issues": 4}})
    assert any("review.num_issues" in one.what for one in verify(run).problems)
    # As an earlier release wrote it.
    del scores["review"]
    atomic.write_json(run.report_scores, scores)
    assert verify(run).ok


@pytest.mark.slow
def test_run_with_corrected_labels_keeps_folds_and_held_out_images(run, launched, tmp_path, capsys):
    results(run)
    before = read_run_data(run.data)
    lines = listed(run.review(1))
    gone = lines[0]["id"]
    answers = {line["id"]: line["suggestion"] for line in lines} | {gone: "-"}
    fill_in(run.review(1), answers)
    asked = ("ensemble=folds", f"datasets.target.relabel={run.review(1)}")
    assert launch(launched, *asked) == 6
    assert "datasets.target.relabel: null → " in capsys.readouterr().err
    assert launch(launched, *asked, run_dir="corrected") == 0
    assert "relabel: 4 labels changed, 1 image left out, 0 rows as in the dataset" in capsys.readouterr().err
    paths = RunPaths(launched / "corrected")
    after = read_run_data(paths.data)
    rows = list(before.splits["oof"].rows)
    kept = [place for place, row in enumerate(rows) if row != gone]
    assert list(after.splits["oof"].rows) == [rows[place] for place in kept]
    np.testing.assert_array_equal(after.folds, before.folds[kept])
    wanted = [int(answers.get(rows[place], before.labels("oof")[place])) for place in kept]
    assert after.labels("oof").tolist() == wanted
    for split in ("dev", "test"):
        assert after.splits[split].rows == before.splits[split].rows
        np.testing.assert_array_equal(after.labels(split), before.labels(split))
    found = verify(paths)
    assert found.ok and found.rebuilt, found.problems
    assert main(["plan", *asked, f"run_dir={launched / 'corrected'}", *SMALL]) == 0
    assert re.search("beside .*corrected, these stay: base1-f0/train, base1-f1/train", capsys.readouterr().out)
