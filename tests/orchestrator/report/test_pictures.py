"""Pictures: the right images in the right order, kept with the run, and said in words."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from whole_run import CLASSES, NUM_ROWS, build_run, finish, stored

from orchestrator.fitting import LabelIssues
from orchestrator.report import pictures, write
from orchestrator.report.review import Review
from orchestrator.report.sections import Card, Guess, Section

URI = "data:image/png;base64,"
SPLIT = "test"


@pytest.fixture(scope="module")
def told():
    """Runs `finish` and returns the evidence of its report, of pictures alone, which say their places."""
    seen, plain = [], pictures.find_pictures
    parts = (pictures.errors, pictures.disputed, pictures.examples, pictures.neighbours, pictures.doubtful)

    def report(run):
        finish(run)
        return seen[-1][0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "PARTS", parts)
        patch.setattr(pictures, "find_pictures", lambda *given: seen.append(given) or plain(*given))
        patch.setattr(pictures, "thumbnails", lambda _, digest, places: {one: f"{URI}{one}" for one in places})
        yield report


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return build_run(tmp_path_factory.mktemp("pictures") / "run", labelled=("dev", "val", SPLIT))


@pytest.fixture(scope="module")
def evidence(run, told):
    return told(run)


def places(section):
    return [int(card.picture.removeprefix(f"{SPLIT}/")) for card in section.cards]


def labels(run):
    return np.load(run.paths.data / f"{SPLIT}.labels.npy")


def test_errors_are_the_wrong_answers_of_which_the_ensemble_is_surest(run, evidence):
    section = pictures.errors(evidence)
    mean = np.mean([stored(run, member, SPLIT) for member in run.plan.members], axis=0)
    guess = mean.argmax(axis=1)
    wrong = [row for row in np.argsort(-mean.max(axis=1)) if guess[row] != labels(run)[row]]
    assert places(section) == wrong[:12] and len(wrong) >= 12
    card, row = section.cards[0], wrong[0]
    assert card.lines == (f"labelled {CLASSES[labels(run)[row]]}", f"test_{row:03d}.png")
    assert [one.name for one in card.guesses] == [CLASSES[one] for one in np.argsort(-mean[row])[:5]]
    assert [one.right for one in card.guesses] == [one.name == CLASSES[labels(run)[row]] for one in card.guesses]
    # For those who cannot see: the name, the label, the guess and how sure it is.
    top = f"{CLASSES[guess[row]]} {mean[row].max():.0%}"
    assert card.spoken.startswith(f"test_{row:03d}.png, labelled {CLASSES[labels(run)[row]]}, {top}")
    assert f"Of {len(wrong)} wrong answers on test" in section.notes[0]


def test_disputed_images_are_those_on_which_most_pairs_disagree_and_say_who_says_what(run, evidence):
    section = pictures.disputed(evidence)
    votes = np.array([stored(run, member, SPLIT).argmax(axis=1) for member in run.plan.members])
    apart = [sum(a != b for a in votes[:, row] for b in votes[:, row]) for row in range(NUM_ROWS)]
    shown = [apart[row] for row in places(section)]
    assert shown == sorted(apart, reverse=True)[:12] and min(shown) > 0
    for card, row in zip(section.cards, places(section), strict=True):
        said = {who: one.name.split(": ")[0] for one in card.guesses for who in one.name.split(": ")[1].split(", ")}
        assert said == {member: CLASSES[own] for member, own in zip(run.plan.members, votes[:, row], strict=True)}
        assert sum(one.probability for one in card.guesses) == pytest.approx(1)


def test_disputed_many_members_are_counted_and_one_alone_has_no_disputes(tmp_path, told):
    many = build_run(tmp_path / "many", base=tuple(f"m{number}" for number in range(20)), labelled=("val", SPLIT))
    texts = [one.name for card in pictures.disputed(told(many)).cards for one in card.guesses]
    assert any(text.endswith(" members") for text in texts) and max(map(len, texts)) < 40
    alone = build_run(tmp_path / "alone", base=("a",), pretrained=(), labelled=("val", SPLIT))
    assert pictures.disputed(told(alone)) is None


def test_examples_are_evenly_spaced_and_need_no_labels(tmp_path, told, evidence):
    assert places(pictures.examples(evidence)) == [0, 16, 32, 48, 64]
    unlabelled = told(build_run(tmp_path / "unlabelled", labelled=()))
    section = pictures.examples(unlabelled)
    assert section.cards[0].lines == ("test_000.png",) and not any(one.right for one in section.cards[0].guesses)
    assert pictures.errors(unlabelled) is None and pictures.doubtful(unlabelled) is None


def neighbours_of(run, member, checkpoint, digest="d" * 64):
    near = [[row, f"train_{row}.png", row % 12, 0.5 + row] for row in range(6)]
    found = {"of": [digest, checkpoint], "split": SPLIT, "layer": "fc8", "num_compared": 1200}
    path = run.paths.predictions(member) / "neighbours.json"
    path.write_text(json.dumps(found | {"images": [{"row": row, "nearest": near} for row in (3, 40)]}))
    return path


def test_neighbours_are_shown_only_if_found_by_these_weights_of_these_images(run, evidence):
    assert pictures.neighbours(evidence) is None
    for stale in ({"checkpoint": "sha-other"}, {"checkpoint": "sha-base1", "digest": "e" * 64}):
        neighbours_of(run, "base1", **stale)
        assert pictures.neighbours(evidence) is None
    neighbours_of(run, "base1", "sha-base1")
    section = pictures.neighbours(evidence)
    assert places(section) == [3, 40]
    others = section.cards[0].others
    assert [one.picture for one in others] == [f"train/{row}" for row in range(6)]
    assert others[2].lines == (CLASSES[2], "2.5")
    assert others[2].spoken == f"train_2.png, labelled {CLASSES[2]}, distance 2.5"
    assert "1,200 training images" in section.notes[0] and "base1's fc8" in section.notes[0]
    neighbours_of(run, "base1", "sha-base1").write_text("[")
    assert pictures.neighbours(evidence) is None


def test_doubtful_labels_are_those_of_the_review_with_pictures_of_train(evidence):
    rows, labels = np.arange(30)[::-1], np.zeros(30, int)
    found = LabelIssues(rows, labels, labels + 3, np.full(30, 0.1), np.full(30, 0.7), 80, 20)
    splits = {**evidence.data.splits, "oof": replace(evidence.data.splits[SPLIT], labels=np.zeros(NUM_ROWS, int))}
    own = replace(
        evidence, data=replace(evidence.data, splits=splits), review=Review(Path(), Path(), "30 of 80", found)
    )
    section = pictures.doubtful(own)
    assert [card.picture for card in section.cards] == [f"train/{row}" for row in range(29, 17, -1)]
    assert section.cards[0].guesses == (Guess(CLASSES[3], 0.7), Guess(CLASSES[0], 0.1, right=True))
    assert pictures.doubtful(evidence) is None, "without folds no member speaks of the training images"


def test_page_shows_the_pictures_and_keeps_them_for_a_machine_without_the_images(run, told, evidence, monkeypatch):
    page, kept = run.paths.report_page.read_text(), run.paths.report_pictures.read_text()
    assert f'<img src="{URI}test/0" alt="test_000.png, labelled' in page
    assert json.loads(kept)["digest"] == "d" * 64
    monkeypatch.setattr(pictures, "thumbnails", lambda *_: {})
    told(run)
    assert (run.paths.report_page.read_text(), run.paths.report_pictures.read_text()) == (page, kept)
    # Those of other images are not shown.
    other = replace(evidence, data=replace(evidence.data, digest="e" * 64))
    section = Section("one", "One", cards=(Card("test/0", "said"),))
    assert pictures.find_pictures(evidence, [section])["test/0"] == f"{URI}test/0"
    assert pictures.find_pictures(other, [section]) == {}
    run.paths.report_pictures.unlink()
    told(run)
    bare = run.paths.report_page.read_text()
    assert "<img" not in bare and "The most confident errors" in bare and "test_000.png" in bare
