"""Several runs on the images that all of them have."""

import hashlib
import json
import math
from fractions import Fraction

import numpy as np
import pytest
from record_committed import record_committed
from scipy.stats import binomtest, bootstrap
from whole_run import CLASSES, finish, scores_of, stored, write_predictions

from orchestrator.cli.program import main
from orchestrator.finished.comparison import compare_runs, comparison_lines
from workers.errors import ConfigError, DataError

pytestmark = pytest.mark.usefixtures("no_drawing")


def draw(labels, strength, seed):
    logits = np.random.default_rng(seed).normal(size=(len(labels), len(CLASSES)))
    logits[np.arange(len(labels)), labels] += strength
    return (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)


def laid(run, rows, labels, seed, strength=1.5):
    """Gives the run other images of val, of other predictions, and a submission."""
    (run.paths.data / "val.rows.txt").write_text("".join(f"{row}\n" for row in rows))
    np.save(run.paths.data / "val.labels.npy", labels)
    np.save(run.paths.data / "val.sizes.npy", np.full((len(rows), 2), 32, np.int32))
    about = json.loads((run.paths.data / "dataset.json").read_text())
    about["counts"]["val"] = len(rows)
    (run.paths.data / "dataset.json").write_text(json.dumps(about))
    for place, member in enumerate(run.plan.members):
        write_predictions(run.paths, member, "val", draw(labels, strength, [seed, place]))
    record_committed(run.paths, run.plan)
    finish(run)


@pytest.fixture(scope="module")
def pair(tmp_path_factory, make_run, no_drawing):
    """Two runs that share images 20 to 299, of which two have other labels in the second run and come in its order."""
    first, second = (make_run(tmp_path_factory.mktemp("runs") / name) for name in ("one", "two"))
    labels = np.random.default_rng(1).integers(0, len(CLASSES), 330)
    laid(first, [f"{row:04d}.png" for row in range(300)], labels[:300], 1, 1.2)
    rows = np.random.default_rng(2).permutation(np.arange(20, 330))
    others = labels.copy()
    others[[50, 60]] = (others[[50, 60]] + 1) % len(CLASSES)
    laid(second, [f"{row:04d}.png" for row in rows], others[rows], 2, 1.6)
    common = [row for row in range(20, 300) if row not in (50, 60)]
    wrong = []
    for run, order in ((first, np.arange(300)), (second, rows)):
        mean = np.mean([stored(run, member, "val").astype(float) for member in run.plan.members], axis=0)
        guess = dict(zip(order.tolist(), mean.argmax(axis=1).tolist(), strict=True))
        wrong.append(np.array([guess[row] != labels[row] for row in common]))
    return first, second, wrong


def test_compare_joins_by_name_and_label_and_lists_the_rest(pair):
    first, second, wrong = pair
    found = compare_runs([first.paths.root, second.paths.root])
    assert (found["split"], found["num_images"]) == ("val", 278)
    for one, own, rows in zip(found["runs"], wrong, (300, 310), strict=True):
        assert one["error"]["estimate"] == one["top1_error"] == pytest.approx(own.mean())
        assert found["num_images"] + len(one["left_out"]) == rows
    assert set(found["runs"][0]["left_out"]) == {f"{row:04d}.png" for row in (*range(20), 50, 60)}
    assert set(found["runs"][1]["left_out"]) == {f"{row:04d}.png" for row in (50, 60, *range(300, 330))}
    text = "\n".join(comparison_lines(found))
    assert f"LEFT OUT: 22 images of {first.paths.root}, not in all or labelled otherwise: 0000.png, 0001.png" in text


def test_compare_interval_and_p_are_those_of_scipy_and_of_the_binomial_law(pair):
    first, second, (one, other) = pair
    found = compare_runs([first.paths.root, second.paths.root])["runs"][1]
    wilson = binomtest(int(other.sum()), len(other)).proportion_ci(method="wilson")
    assert (found["error"]["low"], found["error"]["high"]) == pytest.approx((wilson.low, wilson.high))
    apart = other.astype(float) - one
    theirs = bootstrap((apart,), np.mean, n_resamples=20_000, rng=np.random.default_rng(1)).confidence_interval
    assert found["than_first"]["estimate"] == pytest.approx(apart.mean())
    # Both draw images at random; means of 278 are 0.0036 apart.
    assert (found["than_first"]["low"], found["than_first"]["high"]) == pytest.approx(
        (theirs.low, theirs.high), abs=2.1 / len(one)
    )
    only, back = int((other & ~one).sum()), int((one & ~other).sum())
    tail = sum(math.comb(only + back, count) for count in range(min(only, back) + 1))
    assert found["p"] == pytest.approx(float(min(1, Fraction(2 * tail, 2 ** (only + back)))))
    assert found["p"] == pytest.approx(binomtest(only, only + back).pvalue) and found["p"] < 0.05
    assert compare_runs([second.paths.root, first.paths.root])["runs"][1]["p"] == pytest.approx(found["p"])


def test_compare_agrees_with_statsmodels(pair):
    tables = pytest.importorskip("statsmodels.stats.contingency_tables", reason="statsmodels: the extra `test` has it")
    from statsmodels.stats.proportion import proportion_confint

    first, second, (one, other) = pair
    found = compare_runs([first.paths.root, second.paths.root])["runs"][1]
    pairs = [[(~one & ~other).sum(), (~one & other).sum()], [(one & ~other).sum(), (one & other).sum()]]
    assert found["p"] == pytest.approx(tables.mcnemar(pairs, exact=True).pvalue)
    bounds = proportion_confint(other.sum(), len(other), method="wilson")
    assert (found["error"]["low"], found["error"]["high"]) == pytest.approx(bounds)


def test_compare_run_with_itself_is_what_its_report_says(pair, capsys):
    root = str(pair[0].paths.root)
    before = hashlib.sha256(pair[0].paths.report_scores.read_bytes()).hexdigest()
    assert main(["compare", root, root, "--json"]) == 0
    found, scores = json.loads(capsys.readouterr().out), scores_of(pair[0])
    one, again = found["runs"]
    assert one["top1_error"] == pytest.approx(scores["ensemble"]["top1_error"])
    assert one["nll"] == pytest.approx(scores["ensemble"]["nll"])
    assert one["ece"] == pytest.approx(scores["ensemble"]["ece"])
    assert 0 < one["macro_f1"] < 1 and 0 < one["balanced_accuracy"] < 1
    assert one["members"][one["best_member"]] == min(own["top1_error"] for own in scores["members"].values())
    assert again["than_first"]["estimate"] == 0 and again["p"] == 1 and one["left_out"] == []
    assert hashlib.sha256(pair[0].paths.report_scores.read_bytes()).hexdigest() == before


def test_compare_refuses_runs_that_have_nothing_in_common(pair, tmp_path, make_run):
    first = pair[0]
    apart = make_run(tmp_path / "apart")
    finish(apart)
    with pytest.raises(DataError, match=r"no image of val is in all of them") as refused:
        compare_runs([first.paths.root, apart.paths.root])
    assert refused.value.exit_code == 3
    classes = apart.paths.data / "classes.txt"
    classes.write_text(classes.read_text().replace("class00", "other"))
    record_committed(apart.paths, apart.plan)
    with pytest.raises(DataError, match="has other classes than"):
        compare_runs([first.paths.root, apart.paths.root])
    with pytest.raises(ConfigError, match="two run directories"):
        compare_runs([first.paths.root])
    with pytest.raises(DataError, match="no run directory there"):
        compare_runs([first.paths.root, tmp_path / "nowhere"])
