"""Folds by groups and from a file: images are found by their ids, and what does not fit gets one line."""

import pytest
from pictures import encoded, noise, write_tree

from orchestrator.config.composition import compose
from orchestrator.folding import find_folds, with_folds
from workers.data.store import open_store, prepare
from workers.errors import ConfigError, DataError

NAMES = [f"{name}/{index}.png" for name in "ab" for index in range(12)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of two classes, of which the first image of both is the same, and its store."""
    root = tmp_path_factory.mktemp("images")
    files = {f"train/{name}": seed for seed, name in enumerate(NAMES)}
    return write_tree(root, {**files, "train/b/0.png": encoded(noise(0))})


@pytest.fixture(scope="module")
def target(place, tmp_path_factory):
    config = compose(["ensemble=folds", "dataset@datasets.target=folder", *settings(place)])
    return open_store(prepare(config.datasets["target"], tmp_path_factory.mktemp("stores")))


def settings(place):
    return (f"datasets.target.root={place}", "datasets.target.size=32", "datasets.target.dev_fraction=0")


def asked(place, *words):
    return compose(["ensemble=folds", "dataset@datasets.target=folder", *settings(place), *words])


def listed(folder, values, header="id,fold"):
    path = folder / "values.csv"
    path.write_text("\n".join([header, *(f"{name},{value}" for name, value in values.items())]) + "\n")
    return path


def test_folds_by_contents_cover_every_image_once_in_each_division(place, target):
    folds = find_folds(asked(place, "folds.k=4", "folds.repeats=3"), target)
    assert folds.shape == (24, 3)
    assert all(set(column) == set(range(4)) for column in folds.T.tolist())
    rows = target.rows("train")
    assert (folds[rows.index("a/0.png")] == folds[rows.index("b/0.png")]).all()


@pytest.mark.parametrize("form", ["{0}", "train/{0}", "{1}"])
def test_groups_by_path_or_path_without_extension_stay_together(place, target, tmp_path, form):
    group = {name: int(name[2:-4]) // 3 for name in NAMES}
    file = listed(tmp_path, {form.format(name, name[:-4]): number for name, number in group.items()}, "id,patient")
    config = asked(place, f"folds.groups={file}", "folds.k=3")
    folds = find_folds(config, target)[:, 0]
    assert all(len({folds[row] for row, name in enumerate(target.rows("train")) if group[name] == one}) == 1
               for one in range(4))  # fmt: skip
    digests = {stage.fold.groups for member in with_folds(config).members.values() for stage in member.stages.values()}
    assert len(digests) == 1 and len(digests.pop()) == 64


def test_folds_of_a_file_are_taken_as_they_are_and_their_sha_follows_the_content_alone(place, target, tmp_path):
    wanted = {name: index % 3 for index, name in enumerate(NAMES)}
    config = asked(place, f"folds.file={listed(tmp_path, wanted)}", "folds.k=3")
    found = find_folds(config, target)[:, 0].tolist()
    assert found == [wanted[row] for row in target.rows("train")]
    (tmp_path / "elsewhere").mkdir()
    other = listed(tmp_path / "elsewhere", dict(reversed(wanted.items())))
    same = with_folds(asked(place, f"folds.file={other}", "folds.k=3"))
    assert same.members == with_folds(config).members
    changed = with_folds(asked(place, f"folds.file={listed(tmp_path, {**wanted, 'a/1.png': 2})}", "folds.k=3"))
    assert changed.members != same.members


@pytest.mark.parametrize(
    ("values", "header", "why"),
    [
        (dict.fromkeys(NAMES, 0), "id,fold", r"folds.file=.*: no image is in fold 1; give a smaller folds.k"),
        (
            {name: int(name == "b/0.png") for name in NAMES},
            "id,fold",
            r"a/0.png and b/0.png are the same image, in two folds; put them into one",
        ),
        ({name: index % 4 for index, name in enumerate(NAMES)}, "id,fold", r"has the fold 3; give 0 … folds.k - 1"),
        (dict.fromkeys(NAMES, "x"), "id,fold", r"has the fold x; give 0 … folds.k - 1"),
        (dict.fromkeys(NAMES[:-1], 0), "id,fold", r"no line for 1 training images: b/11.png; add them"),
        ({f"{index}.png": 0 for index in range(12)}, "id,fold", r"an id may be several images; write paths below"),
        (dict.fromkeys(NAMES, ""), "id,fold", r"values.csv: line 2: a/0.png has no value"),
        (dict.fromkeys(NAMES, "0,1"), "id,fold,more", r"values.csv: has 3 columns; give two, as in id,group"),
        ({}, "id,fold", r"values.csv: no line below the header"),
    ],
)
def test_file_of_folds_that_does_not_fit_is_refused_in_one_line(place, target, tmp_path, values, header, why):
    config = asked(place, f"folds.file={listed(tmp_path, values, header)}", "folds.k=3")
    with pytest.raises(DataError, match=why) as caught:
        find_folds(with_folds(config), target)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("word", ["folds.file", "folds.groups"])
def test_file_or_column_that_is_missing_is_refused_at_planning(place, word):
    with pytest.raises(
        ConfigError, match=rf"{word}=.*nowhere: no such file; give a csv file with a line for each image"
    ):
        with_folds(asked(place, f"{word}=nowhere"))


def test_more_folds_than_images_are_refused(place, target):
    with pytest.raises(DataError, match=r"folds.k=24: no image is in fold 23; give a smaller folds.k"):
        find_folds(asked(place, "folds.k=24"), target)


def test_column_of_the_targets_csv_file_gives_the_groups(place, tmp_path):
    lines = [f"{name},{name[0]},p{int(name[2:-4]) // 3}" for name in NAMES]
    images = {f"train/{name}": seed for seed, name in enumerate(NAMES)}
    root = write_tree(tmp_path / "csv", images)
    (root / "train.csv").write_text("\n".join(["id,label,patient", *lines]) + "\n")
    words = ["ensemble=folds", "dataset@datasets.target=csv", *settings(root), "folds.k=2"]
    config = compose([*words, "folds.groups=patient"])
    store = open_store(prepare(config.datasets["target"], tmp_path / "stores"))
    folds = find_folds(config, store)[:, 0]
    group = {name: int(name[2:-4]) // 3 for name in NAMES}
    for one in range(4):
        assert len({folds[row] for row, name in enumerate(store.rows("train")) if group[name] == one}) == 1
    with pytest.raises(DataError, match=r"folds.groups=doctor: .*has no column doctor \(columns: id, label, patient\)"):
        with_folds(compose([*words, "folds.groups=doctor"]))
