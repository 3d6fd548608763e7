"""What nets said of held-out images after each epoch: what was scored, bounded, and the same bytes when resumed."""

import json

import numpy as np
import pytest
from tiny_stage import interrupted, make_spec, make_store, never, run_in_pieces

from workers.training import stage as module
from workers.training.stage import run_stage


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def whole(store, tmp_path_factory):
    """A stage that was trained without a stop."""
    spec = make_spec(store, tmp_path_factory.mktemp("whole") / "train")
    run_stage(spec, never)
    return spec


def answers(spec):
    return {path.name: path.read_bytes() for path in (spec.stage_dir / "answers").iterdir()}


def test_answers_are_those_that_the_errors_of_each_epoch_count(whole):
    points = map(json.loads, (whole.stage_dir / "metrics.jsonl").read_text().splitlines())
    errors = {point["epoch"]: point["metrics"].get("dev/top1_error") for point in points if point["epoch"] % 1 == 0}
    assert set(answers(whole)) == {f"dev-{epoch:.0f}.npz" for epoch in errors}
    for epoch, error in errors.items():
        with np.load(whole.stage_dir / "answers" / f"dev-{epoch:.0f}.npz") as kept:
            probabilities, labels = kept["probabilities"], kept["labels"]
        assert probabilities.dtype == np.float16 and probabilities.shape == (len(labels), 10)
        np.testing.assert_allclose(probabilities.sum(axis=1, dtype=np.float32), 1, atol=5e-3)
        assert (probabilities.argmax(axis=1) != labels).mean() == pytest.approx(error, abs=2 / len(labels))


def test_resumed_stage_has_the_same_answers_and_no_leftovers(whole, store, tmp_path):
    own = interrupted(whole, tmp_path / "train", 5)
    (own.stage_dir / "answers" / ".tmp-killed").write_bytes(b"half")
    run_stage(own, never)
    assert answers(own) == answers(whole)
    run_in_pieces(make_spec(store, tmp_path / "pieces"), 2)
    assert answers(make_spec(store, tmp_path / "pieces")) == answers(whole)


def test_answers_that_are_large_are_of_some_images_or_not_kept(whole, store, tmp_path, monkeypatch):
    with np.load(whole.stage_dir / "answers" / "dev-4.npz") as kept:
        every = kept["probabilities"]
    assert len(every) > 100
    # Four epochs of ten classes, two bytes each.
    monkeypatch.setattr(module, "_MOST_KEPT", 80 * (len(every) - 1))
    run_stage(half := make_spec(store, tmp_path / "half"), never)
    with np.load(half.stage_dir / "answers" / "dev-4.npz") as kept:
        np.testing.assert_array_equal(kept["probabilities"], every[::2])
    monkeypatch.setattr(module, "_MOST_KEPT", 80 * 99)
    run_stage(none := make_spec(store, tmp_path / "none"), never)
    assert not (none.stage_dir / "answers").exists()
