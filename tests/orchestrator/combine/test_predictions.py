"""Stored predictions are opened only when whole, of the right images, and probabilities."""

import gc
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest

from orchestrator.combine.averaging import Combination, Combined, mean
from orchestrator.combine.predictions import open_predictions
from orchestrator.config.schema import CombineMethod
from orchestrator.run.data import SplitData, of_store, read_run_data
from workers.data.export import export
from workers.data.store.preparation import prepare
from workers.data.store.store import open_store
from workers.errors import CheckFailed, DataError, MemberFailed, StorageError
from workers.protocol import SplitPredictions
from workers.settings.dataset import DatasetSettings, Source

NUM_CLASSES = 6
DIGEST = "d" * 64


def make_split(num_rows=20, unreadable=()):
    return split_of(tuple(f"{index:03d}.png" for index in range(num_rows)), unreadable)


def split_of(rows, unreadable=()):
    digest = hashlib.sha256("".join(f"{row}\n" for row in rows).encode()).hexdigest()
    return SplitData("test", rows, digest, None, np.full((len(rows), 2), 8, np.int32), unreadable)


def store_predictions(folder, split, probabilities):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{split.name}.npy"
    np.save(path, probabilities)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    about = SplitPredictions(split.name, *probabilities.shape, split.rows_sha256, DIGEST, sha256, "step", "c" * 64)
    (folder / f"{split.name}.json").write_text(json.dumps(asdict(about)))


def draw(seed, num_rows=20):
    return np.random.default_rng(seed).dirichlet(np.ones(NUM_CLASSES), size=num_rows).astype(np.float32)


def opened(directories, split=None, digest=DIGEST):
    return open_predictions(directories, split or make_split(), NUM_CLASSES, digest)


@pytest.fixture
def directories(tmp_path):
    folders = {name: tmp_path / name / "predictions" for name in ("a", "b")}
    for seed, folder in enumerate(folders.values()):
        store_predictions(folder, make_split(), draw(seed))
    return folders


def test_open_predictions_whole_files_give_what_was_stored_and_forgotten_stay_open_no_longer(directories, tmp_path):
    store_predictions(tmp_path / "stray" / "predictions", make_split(), draw(9))  # no plan names it
    found = opened(directories)
    assert [one.member for one in found] == ["a", "b"]
    for seed, one in enumerate(found):
        np.testing.assert_array_equal(one[:], draw(seed))
        np.testing.assert_array_equal(one[3:9], draw(seed)[3:9])
    np.testing.assert_array_equal(mean(found)[5:6], mean([draw(0), draw(1)])[5:6])
    descriptors = [one._descriptor for one in found]
    assert all(os.fstat(descriptor) for descriptor in descriptors)
    del found, one
    gc.collect()
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_open_predictions_unreadable_images_are_uniform_whatever_members_say(directories):
    found = opened(directories, make_split(unreadable=(0, 7)))
    for seed, one in enumerate(found):
        expected = draw(seed)
        expected[[0, 7]] = 1 / NUM_CLASSES
        np.testing.assert_array_equal(one[:], expected)
        np.testing.assert_array_equal(one[6:8], expected[6:8])
    combination = Combination(CombineMethod.mean, (0.3, 0.7))
    combined, whole = Combined(found, combination), Combined([one[:] for one in found], combination)[:]
    np.testing.assert_array_equal(combined[:], whole)
    np.testing.assert_array_equal(combined[5:9], whole[5:9])
    np.testing.assert_array_equal(combined[20:20], np.empty((0, NUM_CLASSES), np.float32))


def test_predictions_replaced_after_their_check_are_those_checked_and_cut_they_are_refused(directories):
    found = opened(directories)
    path = directories["a"] / "test.npy"
    np.save(path.with_name("other.npy"), draw(9))
    path.with_name("other.npy").replace(path)
    np.testing.assert_array_equal(found[0][:], draw(0))
    cut_short(directories["b"])
    np.testing.assert_array_equal(found[1][:10], draw(1)[:10])
    np.testing.assert_allclose(mean(found)[:10], (draw(0)[:10] + draw(1)[:10]) / 2, rtol=1e-6)
    for rows in (found[1], mean(found)):
        with pytest.raises(CheckFailed, match=f"{directories['b']}.*became shorter"):
            rows[10:]


def test_open_predictions_several_bad_files_name_the_first_member(directories):
    flip_bit(directories["a"])
    damage_json(directories["b"])
    with pytest.raises(CheckFailed, match=r"member a: .*sha256"):
        opened(directories)


@pytest.mark.parametrize("suffix", ["npy", "json"])
def test_open_predictions_missing_file_names_every_member_that_lacks_it(directories, suffix):
    for folder in directories.values():
        (folder / f"test.{suffix}").unlink()
    with pytest.raises(MemberFailed, match="members a, b: no predictions of test"):
        opened(directories)


def spoil(row, column, value):
    def change(folder):
        probabilities = draw(1)
        probabilities[row, column] = value
        store_predictions(folder, make_split(), probabilities)

    return change


def store(probabilities):
    return lambda folder: store_predictions(folder, make_split(), probabilities)


def cut_short(folder):
    path = folder / "test.npy"
    path.write_bytes(path.read_bytes()[:-5])


def flip_bit(folder):
    # The lowest bit of a mantissa: still a probability distribution, so that only the sha256 can tell.
    content = bytearray((folder / "test.npy").read_bytes())
    content[-4] ^= 1
    (folder / "test.npy").write_bytes(bytes(content))


def damage_json(folder):
    (folder / "test.json").write_text("{")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (spoil(4, 2, np.nan), r"first 4 \(004.png\)"),
        (spoil(0, 0, 0.9), r"first 0 \(000.png\)"),
        (store(np.tile(np.float32([-0.5, 1.5, 0, 0, 0, 0]), (20, 1))), r"first 0 \(000.png\), 1 .*, 2 "),
        (store(draw(1)[:, :5]), r"\(20, 5\), not float32 \(20, 6\)"),
        (store(draw(1).astype(np.float64)), "float64"),
        (store(np.asfortranarray(draw(1))), "not float32"),
        (cut_short, "not a whole .npy"),
        (flip_bit, "sha256"),
        (damage_json, "damaged"),
    ],
)
def test_open_predictions_spoilt_file_is_refused_naming_member_and_place(directories, change, words):
    change(directories["b"])
    with pytest.raises(CheckFailed, match=words) as caught:
        opened(directories)
    assert "member b" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_open_predictions_of_other_images_or_pixels_is_refused(directories):
    with pytest.raises(CheckFailed, match=r"member a: .*other images"):
        opened(directories, split_of(make_split().rows[::-1]))
    with pytest.raises(CheckFailed, match=r"member a: .*content.*septet launch"):
        opened(directories, digest="e" * 64)


MEASURE = """
import sys
from pathlib import Path
import numpy as np
from benchmarks.turns import peak_mb
from orchestrator.combine.predictions import open_predictions
from orchestrator.combine.averaging import mean
from scored_rows import score
from test_predictions import split_of
folder, num_rows = Path(sys.argv[1]), int(sys.argv[2])
split = split_of(tuple(f"{index:06d}" for index in range(num_rows)))
before = peak_mb()
members = open_predictions({str(index): folder for index in range(7)}, split, 1000, "d" * 64)
score(mean(members), np.zeros(num_rows, np.int64))
print(peak_mb() - before)
"""


def test_seven_members_streamed_memory_does_not_grow_with_the_files(tmp_path):
    num_rows = 20_000  # 80 MB a member: 560 MB in all.
    split = split_of(tuple(f"{index:06d}" for index in range(num_rows)))
    store_predictions(tmp_path, split, np.full((num_rows, 1000), 1e-3, np.float32))
    words = [sys.executable, "-c", MEASURE, str(tmp_path), str(num_rows)]
    here = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    grown_mb = float(subprocess.run(words, env=here, capture_output=True, text=True, check=True).stdout)
    assert 1 < grown_mb < 160


def write_run_data(folder, counts):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("cat\ngreat dane\n")
    for split, count in counts.items():
        (folder / f"{split}.rows.txt").write_text("".join(f"{split}{index}\u2028.png\n" for index in range(count)))
        np.save(folder / f"{split}.sizes.npy", np.full((count, 2), 5, np.int32))
        if split != "test":
            np.save(folder / f"{split}.labels.npy", np.zeros(count, np.int64))
    unreadable = dict.fromkeys(counts, ()) | {"test": (1,)}
    counts = dict.fromkeys(("train", "dev", "val", "test"), 0) | counts
    about = {"digest": "d", "class_ids": [], "counts": counts, "unreadable": unreadable}
    (folder / "dataset.json").write_text(json.dumps(about))


def test_read_run_data_exported_folder_gives_classes_rows_and_labels(tmp_path):
    write_run_data(tmp_path / "data", {"val": 3, "test": 2})
    data = read_run_data(tmp_path / "data")
    assert data.classes == ("cat", "great dane")
    assert data.splits["test"].rows == ("test0\u2028.png", "test1\u2028.png")
    assert data.splits["test"].labels is None
    assert data.splits["test"].unreadable == (1,)
    assert (data.scored, data.submitted, set(data.splits)) == (("val",), "test", {"val", "test"})


def test_read_run_data_knows_what_the_challenge_calls_each_class(tmp_path):
    write_run_data(tmp_path / "data", {"val": 3})
    assert read_run_data(tmp_path / "data").class_ids == ()
    assert read_run_data(tmp_path / "data").submitted == "val", "there is no test split"
    about = json.loads((tmp_path / "data" / "dataset.json").read_text())
    (tmp_path / "data" / "dataset.json").write_text(json.dumps({**about, "class_ids": ["151", "246"]}))
    assert read_run_data(tmp_path / "data").class_ids == ("151", "246")
    (tmp_path / "data" / "dataset.json").write_text(json.dumps({**about, "class_ids": ["151"]}))
    with pytest.raises(StorageError, match="1 class ids"):
        read_run_data(tmp_path / "data")


def test_run_data_of_a_store_is_what_its_export_reads_as(tmp_path):
    store = open_store(prepare(DatasetSettings(source=Source.digits, size=8), tmp_path / "store"))
    export(store, tmp_path / "data")
    written, wanted = of_store(store), read_run_data(tmp_path / "data")
    assert (written.digest, written.classes) == (wanted.digest, wanted.classes)
    assert list(written.splits) == list(wanted.splits) == ["dev", "val", "test"]
    for name, split in written.splits.items():
        for field in fields(split):
            np.testing.assert_array_equal(getattr(split, field.name), getattr(wanted.splits[name], field.name))


def test_read_run_data_absent_is_a_data_error_and_of_different_numbers_refused(tmp_path):
    with pytest.raises(DataError, match="septet launch"):
        read_run_data(tmp_path / "data")
    write_run_data(tmp_path / "data", {"val": 3})
    np.save(tmp_path / "data" / "val.labels.npy", np.zeros(2, np.int64))
    with pytest.raises(StorageError, match="numbers of rows, labels and sizes differ"):
        read_run_data(tmp_path / "data")
