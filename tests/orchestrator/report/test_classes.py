"""Confusion, errors by class, macro-averages: on the page and in files."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn import metrics
from whole_run import finish, scores_of, stored

from orchestrator.combine import mean
from orchestrator.fitting import wilson
from orchestrator.report import write
from orchestrator.report.classes import by_class
from orchestrator.report.figures import Cell
from orchestrator.report.figures.matrices import cluster
from orchestrator.report.table import score_split


def scored(num_classes, num_rows=400, without=(), seed=0):
    """Scores of two members, which take a class for the next one in a pair more often than for others."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(np.setdiff1d(np.arange(num_classes), without), num_rows)
    members = {}
    for name in ("a", "b"):
        rows = generator.dirichlet(np.full(num_classes, 0.5), num_rows)
        rows[np.arange(num_rows), labels] += 0.4
        rows[np.arange(num_rows), np.minimum(labels ^ 1, num_classes - 1)] += 0.35
        members[name] = (rows / rows.sum(axis=1, keepdims=True)).astype(np.float32)
    guess = np.mean(list(members.values()), axis=0).argmax(axis=1)
    return score_split("val", members, ("a", "b"), (), mean(list(members.values())), labels), labels, guess


def shown(scores, called):
    return by_class(SimpleNamespace(main=scores, data=SimpleNamespace(classes=called)))


def names(num_classes):
    return [f"class, {number}" for number in range(num_classes)]


def test_files_hold_every_pair_and_every_class_as_scikit_learn_counts_them():
    scores, labels, guess = scored(40, without=(7,))
    called = [f'class "{name}", {name}' for name in range(40)]
    files = shown(scores, called).csv
    header, *pairs = files["confusion"]
    assert header == ("label", "guess", "count")
    found = np.zeros((40, 40), int)
    for label, other, count in pairs:
        found[called.index(label), called.index(other)] = count
    np.testing.assert_array_equal(found, metrics.confusion_matrix(labels, guess, labels=range(40)))
    _, *lines = files["classes"]
    assert len(lines) == 40
    for name, *counts in lines:
        own = called.index(name)
        images, guesses, right = counts[:3]
        assert (images, guesses, right) == (found[own].sum(), found[:, own].sum(), found[own, own])
        wanted = wilson(images - right, images) if images else None
        bounds = [wanted.estimate, wanted.low, wanted.high] if wanted else []
        assert [one for one in counts[3:] if one != ""] == pytest.approx(bounds, abs=1e-5)
    errors = [line[4] for line in lines[:-1]]
    assert errors == sorted(errors, reverse=True) and lines[-1][0] == called[7]


def test_page_above_thirty_classes_lists_the_worst_pairs_and_draws_nothing():
    scores, labels, guess = scored(50, num_rows=5_000)
    section = shown(scores, names(50))
    assert section.drawings == ()
    pairs, classes = section.tables
    assert len(pairs.lines) == len(classes.lines) == 30
    counts = [int(line[1]) for line in pairs.lines]
    wrong = metrics.confusion_matrix(labels, guess)
    np.fill_diagonal(wrong, 0)
    assert counts == sorted(wrong.ravel(), reverse=True)[:30]
    # Of two pairs with as many images, the larger share of its label comes first.
    shares = wrong / np.bincount(labels)[:, None]
    assert pairs.lines[0][2] == f"{100 * shares[wrong == wrong.max()].max():.1f} %"
    assert pairs.caption == f"The worst 30 of {(wrong > 0).sum()} confusions"


def test_page_up_to_thirty_classes_draws_all_with_values_under_the_pointer():
    scores, labels, guess = scored(4)
    section = shown(scores, ["a<b", "$x$ $y$", "ü", "d" * 40])
    (drawing,) = section.drawings
    count = ((labels == 0) & (guess == 1)).sum()
    share = 100 * count / (labels == 0).sum()
    assert f"<title>a&lt;b → $x$ $y$: {count} ({share:.1f} %)</title>" in drawing.inline
    assert "d" * 17 + "…" in drawing.inline and "var(--mark)" in drawing.inline
    assert len(section.tables) == 1 and len(section.tables[0].lines) == 4


def test_cluster_puts_confused_classes_side_by_side():
    mixed = np.random.default_rng(3).permutation(12).tolist()
    groups = [mixed[start : start + 3] for start in range(0, 12, 3)]
    cells = [Cell(one, other, 5, 0.3) for group in groups for one in group for other in group if one != other]
    order = cluster(cells, 12)
    assert sorted(order) == list(range(12))
    assert {frozenset(order[start : start + 3]) for start in range(0, 12, 3)} == set(map(frozenset, groups))
    assert cluster([], 2) == [0, 1]


def test_report_has_the_files_and_scores_json_the_averages(tmp_path, make_run, monkeypatch):
    monkeypatch.setattr(write, "PARTS", (by_class,))
    run = make_run(tmp_path / "run")
    finish(run)
    labels = np.load(run.paths.data / "val.labels.npy")
    guess = np.mean([stored(run, member, "val") for member in run.plan.members], axis=0).argmax(axis=1)
    assert scores_of(run)["parts"]["classes"] == {
        "macro_f1": pytest.approx(metrics.f1_score(labels, guess, average="macro")),
        "balanced_accuracy": pytest.approx(metrics.balanced_accuracy_score(labels, guess)),
    }
    with run.paths.figure("classes", "csv").open(newline="") as file:
        assert sum(int(line["images"]) for line in csv.DictReader(file)) == len(labels)
    with run.paths.figure("confusion", "csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert sum(int(line["count"]) for line in lines if line["label"] == line["guess"]) == (labels == guess).sum()
    assert 'id="classes"' in run.paths.report_page.read_text()
