"""What lies in a root is used, listed as left out, or refused: no image, line or shard is lost without a word."""

import gzip
import json

import pyarrow as pa
import pytest
from image_forms import write_shard
from listed import folder, labels_of, refusal, rows_of
from pictures import encoded, noise, write_tree
from pyarrow import parquet

from workers.data.sources import open_listing
from workers.settings import DatasetSettings, Source

CLASSES = {f"train/{name}/{index}.png": 10 * place + index for place, name in enumerate("ab") for index in range(4)}
LINES = "".join(f"{index}.png,{'ab'[index % 2]}\n" for index in range(8))
TABLE = {f"train/{index}.png": index for index in range(8)} | {"train.csv": f"id,label\n{LINES}".encode()}
PNG = [encoded(noise(index)) for index in range(8)]


def settings_of(root, source, **changes):
    return DatasetSettings(source=source, root=str(root), size=8, **changes)


def left_out(root):
    return {(each.split, each.path, each.reason) for each in rows_of(settings_of(root, Source.csv)).left_out}


@pytest.mark.parametrize("inside", ["train/a/images/sub", "test/images/sub", "val/images/sub"])
def test_folder_below_a_folder_of_images_is_refused(tmp_path, inside):
    files = CLASSES | {f"{inside}/x.png": 90, f"{inside.removesuffix('/sub')}/y.png": 91}
    if inside.startswith("val"):
        files["val/val_annotations.txt"] = b"y.png\ta\t0\n"
    root = write_tree(tmp_path, files)
    assert f"{root / inside}: a folder inside a folder of images: move its images up" in refusal(folder(root))


def test_annotated_images_may_lie_beside_their_list_and_need_one_line_each(tmp_path):
    """Tiny-ImageNet's val without its folder images/, or with some of it moved."""
    files = CLASSES | {
        "val/images/x.png": 90,
        "val/y.png": 91,
        "val/val_annotations.txt": b"x.png\ta\t0\ny.png\tb\t0\n",
    }
    root = write_tree(tmp_path, files)
    assert {row.name: row.label for row in rows_of(folder(root)).splits["val"]} == {"images/x.png": 0, "y.png": 1}
    (root / "val/val_annotations.txt").write_text("x.png\ta\t0\n")
    assert f"{root / 'val/y.png'}: no line in val/val_annotations.txt" in refusal(folder(root))
    (root / "val/val_annotations.txt").write_text("x.png\ta\t0\ny.png\tb\t0\nx.png\tb\t0\n")
    assert "val_annotations.txt: line 3: x.png has no value, or another one above" in refusal(folder(root))


def test_images_that_no_csv_file_names_are_listed_wherever_they_lie(tmp_path):
    root = write_tree(tmp_path, TABLE | {"Valid2/v.png": 90, "lost.png": 91, "notes/read.txt": b"x"})
    assert left_out(root) == {
        ("every split", path, "no csv file has a line for it") for path in ("Valid2/v.png", "lost.png")
    }
    told = rows_of(settings_of(root, Source.csv, images="train")).left_out
    assert [each.path for each in told] == ["lost.png"]
    # Also in a folder that is searched as a part of the root, and in one for all splits.
    (root / "train").rename(root / "Train_Images")
    write_tree(root, {"Train_Images/new.png": 92})
    assert ("every split", "Train_Images/new.png", "no csv file has a line for it") in left_out(root)


@pytest.mark.parametrize("form", ["{root}/train/{name}", "{root}\\train\\{name}"])
def test_whole_paths_in_a_csv_file_are_found_below_the_root(tmp_path, form):
    root = write_tree(tmp_path, TABLE)
    wanted = labels_of(settings_of(root, Source.csv))
    named = (line.split(",") for line in LINES.splitlines())
    lines = "".join(f"{form.format(root=root, name=name)},{label}\n" for name, label in named)
    (root / "train.csv").write_text(f"id,label\n{lines}")
    assert labels_of(settings_of(root, Source.csv)) == wanted
    # Of another machine, a path may mean any image of that name.
    (root / "train.csv").write_text(f"id,label\n{lines}".replace(str(root), "/elsewhere"))
    assert "no image /elsewhere" in refusal(settings_of(root, Source.csv)).replace("\\", "/")


@pytest.mark.parametrize(
    ("encoding", "first"), [("utf-16", ""), ("utf-8-sig", "sep=,\n"), ("utf-8", "SEP=,\r\n"), ("utf-8-sig", "")]
)
def test_table_as_spreadsheets_save_it_is_read(tmp_path, encoding, first):
    root = write_tree(tmp_path, TABLE)
    wanted = labels_of(settings_of(root, Source.csv))
    (root / "train.csv").write_bytes(f"{first}id,label\n{LINES}".replace(",", ";").encode(encoding))
    assert labels_of(settings_of(root, Source.csv)) == wanted
    (root / "train.csv").write_bytes(f"{first}id;label\n{LINES}1.png;a;b\n".replace(",", ";").encode(encoding))
    assert f"line {10 + bool(first)} has 3 cells" in refusal(settings_of(root, Source.csv))


@pytest.mark.parametrize("extension", ["tif", "TIFF", "avif", "jpe"])
def test_samples_of_every_readable_kind_are_read_and_masks_beside_them_are_not(tmp_path, extension):
    samples = [(f"{index}.{extension}", PNG[index]) for index in range(8)]
    labels = [
        (f"{index}.txt", ("\ufeff" if index > 3 else "").encode() + b"ab"[index % 2 : index % 2 + 1])
        for index in range(8)
    ]
    write_shard(tmp_path / "train-0.tar", samples + labels)
    shards = settings_of(tmp_path, Source.webdataset)
    assert labels_of(shards) == {name: "ab"[index % 2] for index, (name, _) in enumerate(samples)}
    write_shard(tmp_path / "train-0.tar", [*samples, *labels, *((f"{index}.png", PNG[index]) for index in range(8))])
    assert set(labels_of(shards)) == {f"{index}.png" for index in range(8)}


def test_compressed_shard_beside_plain_ones_is_refused(tmp_path):
    shard = write_shard(tmp_path / "train-0.tar", [(f"{index}.png", PNG[index]) for index in range(8)])
    (tmp_path / "train-1.tar.gz").write_bytes(gzip.compress(shard.read_bytes()))
    assert "train-1.tar.gz: cannot be read as a tar" in refusal(settings_of(tmp_path, Source.webdataset))


def table(root, features=None, **columns):
    told = {"huggingface": json.dumps({"info": {"features": features or {}}})}
    parquet.write_table(pa.table({"image": PNG, **columns}).replace_schema_metadata(told), root / "train.parquet")
    return settings_of(root, Source.parquet)


def test_two_columns_of_labels_are_refused_unless_they_divide_the_images_alike(tmp_path):
    numbers, names = [index % 2 for index in range(8)], [*"aabbaabb"]
    assert "labels may be label or category: set datasets.<name>.label_column" in refusal(
        table(tmp_path, label=numbers, category=names)
    )
    assert open_listing(table(tmp_path, label=numbers, category=["xy"[number] for number in numbers])).classes == (
        "0",
        "1",
    )
    # Test's may all be missing, and ids are no labels.
    parquet.write_table(pa.table({"image": PNG, "label": [-1] * 8, "category": names}), tmp_path / "test.parquet")
    assert not open_listing(settings_of(tmp_path, Source.parquet)).labelled_test
    chosen = {"label": {"_type": "ClassLabel", "names": ["u", "v"]}}
    assert open_listing(table(tmp_path, chosen, category=names, label=numbers)).classes == ("u", "v")


def test_two_columns_of_images_are_refused_unless_one_has_a_usual_name_alone(tmp_path):
    numbers, pictures = [index % 2 for index in range(8)], {name: {"_type": "Image"} for name in ("mask", "image")}
    assert "images may be image or img: set datasets.<name>.image_column" in refusal(
        table(tmp_path, label=numbers, img=PNG)
    )
    (row, *_) = rows_of(table(tmp_path, pictures, label=numbers, mask=PNG[::-1])).splits["train"]
    assert row.content == rows_of(table(tmp_path, label=numbers)).splits["train"][0].content
