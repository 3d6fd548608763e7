"""What a student is told of an image: the mean over the members that did not see it, from mapped and checked files."""

from dataclasses import replace

import numpy as np
import pytest
from listed import folder, store_of

from workers.data.loading import Teachers, TrainingBatches, draw_epoch, pixel_statistics
from workers.data.store import only_fold, open_store
from workers.errors import CheckFailed
from workers.protocol import HeldFold, Teacher
from workers.settings import AugmentationSettings
from workers.storage import sha256_of

NUM_CLASSES = 10


@pytest.fixture(scope="module")
def folds(digits_store, tmp_path_factory):
    """Two divisions of the digits into two folds and into three."""
    num_images = open_store(digits_store).counts["train"]
    path = tmp_path_factory.mktemp("folds") / "folds.npy"
    draws = np.random.default_rng(0)
    np.save(path, np.stack([draws.integers(2, size=num_images), draws.integers(2, size=num_images)], 1).astype("<i2"))
    return path


@pytest.fixture
def teachers(digits_store, folds, tmp_path):
    """A teacher for each fold, with probabilities of its own."""
    draws, found = np.random.default_rng(1), []
    for repeat in range(2):
        for number in range(2):
            num_rows = int((np.load(folds)[:, repeat] == number).sum())
            path = tmp_path / f"r{repeat}-f{number}.npy"
            np.save(path, draws.dirichlet(np.ones(NUM_CLASSES), num_rows).astype("<f4"))
            found.append(Teacher(path, sha256_of(path), HeldFold(digits_store, folds, number, repeat)))
    return found


def by_hand(teachers, image):
    """The rows of the teachers that did not see `image`."""
    rows = []
    for one in teachers:
        own = np.flatnonzero(np.load(one.fold.folds)[:, one.fold.repeat] == one.fold.number)
        if image in own:
            rows.append(np.load(one.predictions)[own.tolist().index(image)].astype(np.float64))
    return np.array(rows)


def test_target_is_the_mean_over_divisions_of_the_member_that_did_not_see_the_image(teachers):
    images = np.array([700, 3, 512, 3, 0])
    found = Teachers(teachers, NUM_CLASSES).of(images)
    assert found.dtype == np.float32
    for row, image in zip(found, images, strict=True):
        rows = by_hand(teachers, image)
        assert len(rows) == 2
        assert np.array_equal(row, rows.mean(axis=0).astype(np.float32))


def test_temperature_softens_the_mean_as_softmax_of_its_logarithms_would(teachers):
    images = np.arange(40)
    plain, soft = (Teachers(teachers, NUM_CLASSES, value).of(images) for value in (1.0, 3.0))
    powers = np.exp(np.log(plain.astype(np.float64)) / 3)
    np.testing.assert_allclose(soft, powers / powers.sum(axis=1, keepdims=True), rtol=1e-6)
    assert (soft.max(axis=1) < plain.max(axis=1)).all()
    assert (soft.argmax(axis=1) == plain.argmax(axis=1)).all()


def test_files_are_mapped_and_not_read_into_memory(teachers):
    assert all(isinstance(probabilities, np.memmap) for _, probabilities in Teachers(teachers, NUM_CLASSES)._parts)


def test_file_that_is_not_what_its_teacher_predicted_is_refused(teachers):
    content = bytearray(teachers[1].predictions.read_bytes())
    content[-1] ^= 1
    teachers[1].predictions.write_bytes(content)
    with pytest.raises(CheckFailed, match=r"r0-f1.npy: changed since it was predicted .*run `septet launch` again"):
        Teachers(teachers, NUM_CLASSES)


def test_file_of_another_fold_is_refused_though_its_sha256_is_right(teachers, digits_store, folds):
    longer = replace(teachers[0], fold=HeldFold(digits_store, folds, 1, 1))
    with pytest.raises(CheckFailed, match="is of other images than its fold"):
        Teachers([longer], NUM_CLASSES)


def test_file_that_is_gone_is_refused(teachers):
    teachers[2].predictions.unlink()
    with pytest.raises(CheckFailed, match=r"r1-f0.npy: changed since it was predicted \(sha256 of no file"):
        Teachers(teachers, NUM_CLASSES)


def test_batches_drawn_ahead_by_threads_bring_along_what_teachers_say_of_their_images(teachers, digits_store):
    store, settings = open_store(digits_store), AugmentationSettings()
    how = {"seed": 3, "batch_size": 100, "input_size": 16}
    given = (store, pixel_statistics(store, settings), settings)
    told = Teachers(teachers, NUM_CLASSES, 2.0)
    batches = TrainingBatches(*given, **how, depth=3, threads=2, teachers=told)
    order = draw_epoch(3, 0, store.counts["train"], 2, settings, store.labels("train")).order
    for step in range(batches.per_epoch):
        batch = batches.take(step)
        assert np.array_equal(batch.taught.numpy(), told.of(order[step * 100 : (step + 1) * 100]))
        assert len(batch[3:7].taught) == 4
    batches.close()
    assert TrainingBatches(*given, **how).draw(0, 0).taught is None


def test_image_left_out_by_corrected_labels_moves_no_other_images_teachers(plain_tree, tmp_path):
    corrections = tmp_path / "corrected.csv"
    settings = folder(plain_tree, relabel=str(corrections))
    rows = store_of(folder(plain_tree), tmp_path / "stores").rows("train")
    corrections.write_text(f"id,correct\n{rows[1]},-\n{rows[4]},-\n")
    store = store_of(settings, tmp_path / "stores")
    num_images = store.counts["train"]
    assert num_images == len(rows) - 2
    np.save(tmp_path / "folds.npy", (np.arange(num_images) % 2).astype("<i2")[:, None])
    taught = []
    for number in range(2):
        fold, path = HeldFold(store.path, tmp_path / "folds.npy", number, 0), tmp_path / f"f{number}.npy"
        # As a teacher predicts them: a row that tells its image, in the order of what it sees.
        own = [store.rows("train").index(row) for row in only_fold(store, fold).rows("train")]
        np.save(path, np.eye(num_images, dtype="<f4")[own])
        taught.append(Teacher(path, sha256_of(path), fold))
    found = Teachers(taught, num_images).of(np.arange(num_images))
    assert found.argmax(axis=1).tolist() == list(range(num_images))
