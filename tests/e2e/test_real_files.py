"""Files and settings as people report them elsewhere (docs/real-files.md), each with its right value.

Only what no other test covers.
"""

import struct
import tarfile
import zlib

import numpy as np
import pyarrow as pa
import pytest
from image_forms import write_shard
from listed import folder, labels_of, refusal, rows_of, store_of
from pictures import encoded, noise, smooth, write_tree
from PIL import Image
from pyarrow import parquet

from orchestrator.config import compose
from orchestrator.submission.formats import read_template
from workers.data.decoding import decode
from workers.data.sources import open_listing
from workers.data.survey import survey
from workers.errors import ConfigError
from workers.settings import DatasetSettings, Source

WHITE, RED = [255, 255, 255], [255, 0, 0]


def _train(root, *names, count=4):
    """Class folders of `count` images each; no two images are alike."""
    files = [f"train/{name}/{number}.png" for name in names for number in range(count)]
    return write_tree(root, files)


def _classes(settings):
    return open_listing(settings).classes


def _rows(settings):
    return {split: [row.name for row in rows] for split, rows in rows_of(settings).splits.items()}


# Folders.


def test_image_in_two_classes_is_listed(tmp_path):
    _train(tmp_path, "a", "b")
    for name in ("a", "b"):
        write_tree(tmp_path, {f"train/{name}/same.png": 90, f"val/{name}/v.png": 91 + (name == "b")})
    assert store_of(folder(tmp_path), tmp_path / "stores").decided == {
        "the same image in another class too, used for both": 2
    }


def test_folders_that_notebooks_and_systems_hide_are_no_classes(tmp_path):
    _train(tmp_path, "cat", "dog")
    write_tree(tmp_path, {"train/.ipynb_checkpoints/0.png": 90, "train/.DS_Store": b"x", "train/cat/._0.png": b"x"})
    assert _classes(folder(tmp_path)) == ("cat", "dog")
    assert len(labels_of(folder(tmp_path))) == 8


def test_val_that_lacks_a_class_is_labelled_by_name_not_by_its_own_order(tmp_path):
    _train(tmp_path, "a", "b", "c")
    write_tree(tmp_path, {"val/b/v.png": 90, "val/c/v.png": 91})
    listing, rows = open_listing(folder(tmp_path)), rows_of(folder(tmp_path)).splits["val"]
    assert {row.name: listing.classes[row.label] for row in rows} == {"b/v.png": "b", "c/v.png": "c"}


def test_numbered_class_folders_keep_their_names(tmp_path):
    _train(tmp_path, "1", "2", "10")
    assert set(labels_of(folder(tmp_path)).items()) >= {("10/0.png", "10"), ("2/0.png", "2")}


def test_extensions_in_capitals_and_missing_ones_are_images(tmp_path):
    names = [
        f"train/{label}/{number}{end}" for label in "ab" for number, end in enumerate((".JPG", ".Jpeg", "", ".PNG"))
    ]
    write_tree(tmp_path, {name: encoded(noise(seed), "JPEG") for seed, name in enumerate(names)})
    assert sum(len(rows) for rows in _rows(folder(tmp_path)).values()) == 8


def test_words_of_splits_in_names_mean_nothing_below_the_split(tmp_path):
    _train(tmp_path, "train", "test", "images")
    write_tree(tmp_path, {"test/photo of a train.png": 90, "test/val_1.png": 91})
    assert _classes(folder(tmp_path)) == ("images", "test", "train")
    assert _rows(folder(tmp_path))["test"] == ["photo of a train.png", "val_1.png"]


def test_class_folders_may_be_links(tmp_path):
    _train(tmp_path / "elsewhere", "cat", "dog")
    (tmp_path / "root/train").mkdir(parents=True)
    for name in ("cat", "dog"):
        (tmp_path / "root/train" / name).symlink_to(tmp_path / "elsewhere/train" / name)
    assert labels_of(folder(tmp_path / "root")) == labels_of(folder(tmp_path / "elsewhere"))


# csv.


def _csv(root, text, count=8, name="{:04d}.png"):
    write_tree(root, [f"train/{name.format(number)}" for number in range(count)])
    (root / "train.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return DatasetSettings(source=Source.csv, root=str(root), size=8)


def _lines(*labels, sep=",", count=8):
    return [f"{number:04d}{sep}{labels[number % len(labels)]}" for number in range(count)]


def test_ids_keep_their_leading_zeros_and_lost_ones_are_refused(tmp_path):
    kept = _csv(tmp_path / "kept", "\n".join(["id,label", *_lines("a", "b")]))
    assert labels_of(kept)["0001.png"] == "b"
    lost = _csv(tmp_path / "lost", "\n".join(["id,label", *(f"{number},a" for number in range(8))]))
    assert "line 2: no image 0 in" in refusal(lost)


def test_class_called_na_is_a_class(tmp_path):
    assert set(labels_of(_csv(tmp_path, "\n".join(["id,label", *_lines("NA", "US")]))).values()) == {"NA", "US"}


@pytest.mark.parametrize(
    ("head", "tail", "sep", "end"),
    [
        pytest.param("id,label", "", ",", "\r", id="old Mac's line ends"),
        pytest.param("id,label", ",\r\n,\r\n", ",", "\r\n", id="empty lines of a spreadsheet"),
        pytest.param("id, label", "", ", ", "\n", id="spaces after commas"),
    ],
)
def test_tables_of_spreadsheets_are_read_whole(head, tail, sep, end, tmp_path):
    settings = _csv(tmp_path, end.join([head, *_lines("cat", "dog", sep=sep), tail]))
    assert labels_of(settings) == {f"{number:04d}.png": ("cat", "dog")[number % 2] for number in range(8)}


def test_comma_in_a_label_is_no_separator_where_semicolons_are(tmp_path):
    settings = _csv(tmp_path, "\n".join(["id;label", *_lines("cat, small", "dog", sep=";")]))
    assert set(labels_of(settings).values()) == {"cat, small", "dog"}


def test_index_and_fold_columns_are_not_labels(tmp_path):
    lines = [f"{row},{row:04d},{row % 5},{'ab'[row % 2]}" for row in range(8)]
    assert labels_of(_csv(tmp_path, "\n".join([",id,fold,label", *lines])))["0003.png"] == "b"


def test_image_that_the_sample_submission_lacks_is_listed(tmp_path):
    settings = _csv(tmp_path, "\n".join(["id,label", *_lines("a", "b")]))
    write_tree(tmp_path, {"test/t1.png": 90, "test/t2.png": 91})
    (tmp_path / "sample_submission.csv").write_text("id,label\nt1,a\n")
    found = rows_of(settings)
    assert [row.name for row in found.splits["test"]] == ["t1.png"]
    assert [each.path for each in found.left_out] == ["test/t2.png"]


# Shards.


def _samples(count, key="s{}", first=0, end="png"):
    both = ((f"{key.format(each)}.{end}", encoded(noise(each))) for each in range(first, first + count))
    return [*both, *((f"{key.format(each)}.cls", b"%d\n" % (each % 2)) for each in range(first, first + count))]


def _shards(root, **members):
    for name, each in members.items():
        write_shard(root / f"{name}.tar", each)
    return DatasetSettings(source=Source.webdataset, root=str(root), size=8)


def test_members_of_a_sample_need_not_be_neighbours_and_capitals_are_images(tmp_path):
    labels = labels_of(_shards(tmp_path, train_0=_samples(6, end="PNG")))
    assert labels == {f"s{each}.PNG": str(each % 2) for each in range(6)}


def test_folder_with_a_dot_is_no_key(tmp_path):
    assert set(labels_of(_shards(tmp_path, train_0=_samples(4, "./train.v1/s{}")))) == {
        f"train.v1/s{each}.png" for each in range(4)
    }


def test_equal_keys_of_two_shards_are_refused(tmp_path):
    assert "two images have the name s0.png" in refusal(_shards(tmp_path, train_0=_samples(2), train_1=_samples(2)))


def test_empty_shard_among_others_is_read(tmp_path):
    assert len(labels_of(_shards(tmp_path, train_0=_samples(6), train_1=[]))) == 6


def test_shard_cut_between_two_members_is_refused(tmp_path):
    settings = _shards(tmp_path, train_0=_samples(4))
    path = tmp_path / "train_0.tar"
    with tarfile.open(path) as shard:
        cut = shard.getmembers()[3].offset
    path.write_bytes(path.read_bytes()[:cut])
    assert f"no tar header and no end mark at byte {cut}" in refusal(settings)


def test_order_of_a_shard_s_members_decides_nothing(tmp_path):
    members = _samples(6)
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    one = store_of(_shards(tmp_path / "one", train_0=members), tmp_path / "stores")
    other = store_of(_shards(tmp_path / "other", train_0=members[::-1]), tmp_path / "stores")
    assert one.digest == other.digest


# Parquet.


def _table(count, labels=None, first=0, kind=None):
    images = [{"bytes": encoded(noise(first + each)), "path": None} for each in range(count)]
    of_image = pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())])
    labels = [each % 2 for each in range(count)] if labels is None else labels
    return pa.table({"image": pa.array(images, of_image), "label": pa.array(labels, kind)})


def test_files_without_rows_and_large_types_are_read(tmp_path):
    parquet.write_table(_table(6, kind=pa.int8()), tmp_path / "train-0.parquet")
    for name in ("train-1", "test-0"):
        parquet.write_table(_table(0, kind=pa.int8()), tmp_path / f"{name}.parquet")
    settings = DatasetSettings(source=Source.parquet, root=str(tmp_path), size=8)
    assert sorted(labels_of(settings).values()) == ["0"] * 3 + ["1"] * 3
    assert survey(settings).counts["test"] == 0


@pytest.mark.parametrize(("labels", "kind"), [([True, False], pa.bool_()), ([[0], [1]], pa.list_(pa.int64()))])
def test_labels_that_are_no_single_class_are_refused(labels, kind, tmp_path):
    parquet.write_table(_table(2, labels, kind=kind), tmp_path / "train-0.parquet")
    settings = DatasetSettings(source=Source.parquet, root=str(tmp_path), size=8)
    assert "not a name or a number: set datasets.<name>.label_column" in refusal(settings)


# Images.


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png_of_16_bits():
    pixels = struct.pack(">HHH", 0x80FF, 0x10FF, 0xFFFF) * 8
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", zlib.compress((b"\0" + pixels) * 8)) + _chunk(b"IEND", b"")


def _frames(kind, **options):
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    return encoded(red, kind, save_all=True, append_images=[blue], **options)


@pytest.mark.parametrize(
    ("content", "colour"),
    [
        pytest.param(encoded(Image.new("RGB", (8, 8), "red"), transparency=(255, 0, 0)), WHITE, id="RGB with tRNS"),
        pytest.param(encoded(Image.new("1", (8, 8)), transparency=0), WHITE, id="one bit with tRNS"),
        pytest.param(encoded(Image.new("L", (8, 8), 9), transparency=9), WHITE, id="grey with tRNS"),
        pytest.param(_frames("PNG"), RED, id="animated PNG"),
        pytest.param(_frames("WEBP", lossless=True), RED, id="animated WebP"),
        pytest.param(_png_of_16_bits(), [0x80, 0x10, 0xFF], id="RGB of 16 bits"),
        pytest.param(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), [255, 0, 0], id="CMYK"),
    ],
)
def test_colour_of_unusual_images_is_that_of_viewers(content, colour):
    pixels = decode(content, 8).pixels
    assert np.abs(pixels.astype(int) - colour).max() <= 1


def test_damage_in_a_later_frame_is_not_in_the_first():
    content = encoded(noise(1, 32, 32), "GIF", save_all=True, append_images=[noise(2, 32, 32)])
    np.testing.assert_array_equal(decode(content[:-300], 32).pixels, decode(content, 32).pixels)


def test_second_picture_of_a_camera_s_jpeg_is_not_read():
    first = smooth(1, 64, 64)
    content = encoded(first, "MPO", save_all=True, append_images=[smooth(2, 64, 64)])
    np.testing.assert_array_equal(decode(content, 64).pixels, decode(encoded(first, "JPEG"), 64).pixels)


@pytest.mark.parametrize("size", [(1, 2000), (3000, 2)])
def test_strips_are_read(size):
    assert decode(encoded(noise(1, *size)), 16).pixels.shape == (16, 16, 3)


# Settings.


def test_path_with_any_sign_needs_no_quotes_but_for_a_comma():
    path = "/data/epoch=9-step=8/a%20b#c/me@host (1)+$x/日本"
    folder = "dataset@datasets.target=folder"
    assert compose([folder, f"datasets.target.root={path}"]).datasets["target"].root == path
    assert compose([folder, 'datasets.target.root="/data/a,b"']).datasets["target"].root == "/data/a,b"


def test_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert (
        compose(["dataset@datasets.target=folder", "datasets.target.root=~/photos"]).datasets["target"].root
        == "/home/someone/photos"
    )


def test_numbers_may_have_an_exponent_or_no_zero():
    config = compose(["optimizer.lr=1e-3", "optimizer.weight_decay=2.e-4", "optimizer.momentum=.5"])
    for member in config.members.values():
        for stage in member.stages.values():
            rates = stage.optimizer
            assert (rates.lr, rates.weight_decay, rates.momentum) == (0.001, 0.0002, 0.5)


@pytest.mark.parametrize(("override", "wanted"), [("tracking.required=no", "true or false"), ("seed=007", "a whole")])
def test_words_that_yaml_would_guess_about_are_refused(override, wanted):
    with pytest.raises(ConfigError, match=f"{override}: give {wanted}"):
        compose([override])


# Submissions.


@pytest.mark.parametrize("text", ["Id,Class\ra,0\rb,0\r", '"Id","Class"\n"a","0"\n"b","0"\n\n', "Id,Class\na,0\nb,0"])
def test_sample_submissions_of_any_program_are_read(text):
    template = read_template(text, "sample.csv")
    assert (template.header, template.ids) == (("Id", "Class"), ("a", "b"))


@pytest.mark.parametrize("between", ["test", "unknown", "unlabelled"])
def test_folder_that_other_loaders_want_around_unlabelled_images_is_no_class(between, tmp_path):
    _train(tmp_path, "a", "b")
    write_tree(tmp_path, {f"test/{between}/x.png": 90, f"test/{between}/y.png": 91})
    assert not open_listing(folder(tmp_path)).labelled_test
    assert len(_rows(folder(tmp_path))["test"]) == 2


def test_notes_archives_and_sums_beside_test_images_get_no_line(tmp_path):
    _train(tmp_path, "a", "b")
    notes = ("metadata.jsonl", "readme.rst", "README", "images.zip", "SHA256SUMS", "notebook.ipynb")
    write_tree(tmp_path, {"test/x.png": 90, **{f"test/{name}": b"x" for name in notes}})
    assert _rows(folder(tmp_path))["test"] == ["x.png"]


def test_archive_as_a_root_is_told_to_be_unpacked(tmp_path):
    (tmp_path / "images.zip").write_bytes(b"PK")
    assert "images.zip: a file, not a folder: unpack it" in refusal(folder(tmp_path / "images.zip"))


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("run_dir=", "an empty path"),
        ("submission.template=", "an empty path"),
        ("tracking.uri=sqlite:///:memory:", "would be gone at the end"),
        ("dataset@datasets.tarket=folder", "datasets.tarket: no stage uses it; did you mean target"),
        ("--optimizer.lr=0.1", "not an override"),
        ("seed=range(3)", r"ensemble=sweep with sweep\.seed=\[a,b\]"),
    ],
)
def test_setting_that_would_have_been_taken_for_another_is_refused(override, line):
    with pytest.raises(ConfigError, match=line):
        compose([override])


def test_own_file_with_the_name_of_one_of_septet_s_is_refused(tmp_path):
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "sgd.yaml").write_text("lr: 7\n")
    with pytest.raises(ConfigError, match=r"sgd\.yaml: has the name of one of Septet's"):
        compose([], tmp_path)


@pytest.mark.parametrize("name", ["on", "1", "1.0"])
def test_member_whose_name_is_a_value_to_yaml_is_told_to_be_quoted(name, tmp_path):
    (tmp_path / "ensemble").mkdir()
    own = tmp_path / "ensemble" / "mine.yaml"
    own.write_text(f"members:\n  {name}: {{stages: {{train: {{dataset: target}}}}}}\n")
    with pytest.raises(ConfigError, match=r"members\..*: the key is not text to YAML; put it in quotes"):
        compose(["ensemble=mine"], tmp_path)
    own.write_text(f"members:\n  '{name}': {{stages: {{train: {{dataset: target}}}}}}\n")
    if name != "1.0":
        assert list(compose(["ensemble=mine"], tmp_path).members) == [name]


def test_chosen_group_says_which_of_its_values_the_experiment_replaces(tmp_path):
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "mine.yaml").write_text("defaults: [sgd]\nlr: 7.0\nmomentum: 0.5\n")
    config = compose(["optimizer=mine"], tmp_path)
    assert {stage.optimizer.momentum for one in config.members.values() for stage in one.stages.values()} == {0.5}
    (note,) = config.notes
    assert note.startswith("optimizer=mine: experiment=digits keeps optimizer.lr=0.02 and not 7.0; give a key")
    assert compose(["optimizer=mine", "optimizer.lr=0.1"], tmp_path).notes == compose(["seed=1"]).notes == ()
