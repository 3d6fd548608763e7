"""torchvision's sets of image files, in the layouts they unpack to: found by path, labelled as torchvision does."""

import functools
import hashlib
import http.server
import json
import re
import tarfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from listed import refusal, store_of
from pictures import encoded, noise, write_tree
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from workers.data.sources import open_listing
from workers.data.sources.torchvision_catalogue import SETS, Kept
from workers.data.store import prepare
from workers.data.survey import survey
from workers.errors import DataError
from workers.settings import DatasetSettings, Source

NUM_CLASSES, IN_A_CLASS = 3, 6


class Writer:
    """Writes images, each unlike all others."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root, self.patch, self._seed = root, patch, 0

    def image(self, path: str) -> None:
        self._seed += 1
        kind = {".png": "PNG", ".ppm": "PPM"}.get(Path(path).suffix, "JPEG")
        self.file(path, encoded(noise(self._seed, 14, 10), kind))

    def file(self, path: str, content: bytes | str) -> None:
        write_tree(self.root, {path: content if isinstance(content, bytes) else content.encode()})

    def mat(self, path: str, values: dict[str, object]) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        savemat(self.root / path, values)

    def per_class(
        self, template: str, names: Sequence[object] = range(NUM_CLASSES), first: int = 0, count: int = IN_A_CLASS
    ) -> list[list[str]]:
        """Images of each class where `template` puts its {name} and the {number} of an image."""
        numbers = range(first, first + count)
        paths = [[template.format(name=name, number=number) for number in numbers] for name in names]
        for one in (each for group in paths for each in group):
            self.image(one)
        return paths


def lines_of(template: str, names: Sequence[object], groups: Sequence[Sequence[str]]) -> str:
    """A line for each image, with the {name} of its class and the {file} and {stem} of its path."""
    pairs = [(name, Path(path)) for name, paths in zip(names, groups, strict=True) for path in paths]
    return "".join(template.format(name=name, file=path.name, stem=path.stem) + "\n" for name, path in pairs)


@dataclass(frozen=True)
class Expected:
    """Classes, and of each split the images' paths below the root, by class."""

    classes: list[str]
    splits: dict[str, list[list[str]]]


def food(writer: Writer) -> Expected:
    names = ["apple_pie", "baklava", "ceviche"]
    splits = {}
    for split, first in (("train", 100), ("test", 200)):
        splits[split] = writer.per_class("food-101/images/{name}/{number}.jpg", names, first)
        # In another order than the names'.
        listed = {
            name: [f"{name}/{Path(path).stem}" for path in paths]
            for name, paths in reversed(list(zip(names, splits[split], strict=True)))
        }
        writer.file(f"food-101/meta/{split}.json", json.dumps(listed))
    return Expected(names, splits)


def flowers(writer: Writer) -> Expected:
    number_of = {"train": 1, "val": 1 + 3 * IN_A_CLASS, "test": 1 + 6 * IN_A_CLASS}
    splits, labels, ids = {}, np.zeros(9 * IN_A_CLASS, np.uint8), {}
    for split, first in number_of.items():
        paths: list[list[str]] = [[] for _ in range(NUM_CLASSES)]
        ids[split] = np.arange(first, first + 3 * IN_A_CLASS)[::-1]
        for number in range(first, first + 3 * IN_A_CLASS):
            labels[number - 1] = number % NUM_CLASSES + 1
            paths[number % NUM_CLASSES].append(f"flowers-102/jpg/image_{number:05d}.jpg")
            writer.image(paths[number % NUM_CLASSES][-1])
        splits[split] = paths
    writer.mat("flowers-102/imagelabels.mat", {"labels": labels})
    writer.mat("flowers-102/setid.mat", {"trnid": ids["train"], "valid": ids["val"], "tstid": ids["test"]})
    sums = {
        key: (name, hashlib.md5((writer.root / "flowers-102" / name).read_bytes(), usedforsecurity=False).hexdigest())
        for key, name in (("label", "imagelabels.mat"), ("setid", "setid.mat"))
    }
    writer.patch.setattr(datasets.Flowers102, "_file_dict", sums)
    writer.patch.setattr(datasets.Flowers102, "classes", datasets.Flowers102.classes[:NUM_CLASSES])
    return Expected(["pink primrose", "hard-leaved pocket orchid", "canterbury bells"], splits)


def by_folder(template: str, names: list[str], **folders: str) -> Callable[[Writer], Expected]:
    """A folder for each class, in the folder of each split that stands for SPLIT in `template`."""
    paths = {split: template.replace("SPLIT", name) for split, name in folders.items()}
    return lambda writer: Expected(names, {split: writer.per_class(path, names) for split, path in paths.items()})


def imagenette(size: str = "") -> Callable[[Writer], Expected]:
    template = f"imagenette2{size}/SPLIT/{{name}}/{{number}}.JPEG"
    return by_folder(template, ["n01440764", "n02102040", "n03000684"], train="train", val="val")


def pets(writer: Writer) -> Expected:
    # torchvision's names: of the files, in the order of the labels.
    stems = ["Abyssinian", "american_bulldog", "Bengal"]
    splits = {}
    for split, listed, first in (("train", "trainval", 0), ("test", "test", 50)):
        splits[split] = writer.per_class("oxford-iiit-pet/images/{name}_{number}.jpg", stems, first)
        writer.file(
            f"oxford-iiit-pet/annotations/{listed}.txt", lines_of("{stem} {name} 1 1", (1, 2, 3), splits[split])
        )
    return Expected(["Abyssinian", "American Bulldog", "Bengal"], splits)


def cars(writer: Writer) -> Expected:
    names = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Acura TL Sedan 2012"]
    fields = [(name, object) for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    splits = {}
    for split, annotations in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        splits[split] = writer.per_class(f"stanford_cars/cars_{split}/{{name}}{{number:04d}}.jpg")
        rows = [(1, 1, 9, 9, label + 1, Path(path).name) for label, group in enumerate(splits[split]) for path in group]
        writer.mat(f"stanford_cars/{annotations}", {"annotations": np.array(rows, dtype=fields).reshape(1, -1)})
    writer.mat("stanford_cars/devkit/cars_meta.mat", {"class_names": np.array(names, dtype=object).reshape(1, -1)})
    return Expected(names, splits)


def textures(writer: Writer) -> Expected:
    names = ["banded", "blotchy", "braided"]
    splits = {}
    for place, split in enumerate(("train", "val", "test")):
        splits[split] = writer.per_class("dtd/dtd/images/{name}/{name}_{number:04d}.jpg", names, 100 * place)
        writer.file(f"dtd/dtd/labels/{split}1.txt", lines_of("{name}/{file}", names, splits[split]))
    return Expected(names, splits)


def aircraft(writer: Writer) -> Expected:
    names = ["707-320", "Boeing 717", "A300B4"]
    data = "fgvc-aircraft-2013b/data"
    writer.file(f"{data}/variants.txt", "".join(f"{name}\n" for name in names))
    splits = {}
    for place, split in enumerate(("train", "val", "test")):
        splits[split] = writer.per_class(f"{data}/images/{place}{{name}}{{number:05d}}.jpg")
        writer.file(f"{data}/images_variant_{split}.txt", lines_of("{stem} {name}", names, splits[split]))
    return Expected(names, splits)


def scenes(writer: Writer) -> Expected:
    names = ["abbey", "apartment_building/outdoor", "zoo"]
    writer.file("SUN397/ClassName.txt", "".join(f"/{name[0]}/{name}\n" for name in names))
    return Expected(names, {"train": writer.per_class("SUN397/{name[0]}/{name}/sun_a{number}.jpg", names, count=10)})


def signs(writer: Writer) -> Expected:
    names = [f"{sign:05d}" for sign in range(43)]
    train = writer.per_class("gtsrb/GTSRB/Training/{name}/00000_{number:05d}.ppm", names, count=3)
    for name in names:
        writer.file(f"gtsrb/GTSRB/Training/{name}/GT-{name}.csv", "Filename;Width\n")
    # Test's images lie together, and a list tells their classes.
    test = [[f"gtsrb/GTSRB/Final_Test/Images/{sign:05d}.ppm"] for sign in range(43)]
    for sign, (path,) in enumerate(test):
        writer.image(path)
        assert Path(path).stem == names[sign]
    rows = [f"{sign:05d}.ppm;14;10;1;1;9;9;{sign}" for sign in range(43)]
    writer.file(
        "gtsrb/GT-final_test.csv", "\n".join(["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId", *rows])
    )
    return Expected(names, {"train": train, "test": test})


def places(writer: Writer, *, small: bool = False) -> Expected:
    names = ["/a/airfield", "/a/airplane_cabin", "/z/zen_garden"]
    size = "256" if small else "large"
    writer.file("categories_places365.txt", "".join(f"{name} {label}\n" for label, name in enumerate(names)))
    train = writer.per_class(f"data_{size}_standard{{name}}/{{number:08d}}.jpg", names)
    val = writer.per_class(f"val_{size}/Places365_val_{{name}}{{number:07d}}.jpg")
    test = writer.per_class(f"test_{size}/Places365_test_{{name}}{{number:07d}}.jpg")
    listed = [f"{name}/{Path(path).name} {label}\n" for label, name in enumerate(names) for path in train[label]]
    writer.file("places365_train_standard.txt", "".join(listed))
    writer.file("places365_val.txt", lines_of("{file} {name}", range(NUM_CLASSES), val))
    writer.file("places365_test.txt", lines_of("{file}", names, test))
    writer.patch.setattr(datasets.Places365, "_CATEGORIES_META", ("categories_places365.txt", None))
    metas = {"train-standard": "places365_train_standard.txt", "val": "places365_val.txt", "test": "places365_test.txt"}
    writer.patch.setattr(datasets.Places365, "_FILE_LIST_META", {split: (name, None) for split, name in metas.items()})
    return Expected(names, {"train": train, "val": val, "test": test})


LAYOUTS: dict[str, Callable[[Writer], Expected]] = {
    "Food101": food,
    "Flowers102": flowers,
    "Imagenette": imagenette(),
    "Imagenette/160px": imagenette("-160"),
    "Imagenette/320px": imagenette("-320"),
    "OxfordIIITPet": pets,
    "StanfordCars": cars,
    "DTD": textures,
    "EuroSAT": by_folder("eurosat/2750/{name}/{name}_{number}.jpg", ["AnnualCrop", "Forest", "SeaLake"], train=""),
    "FGVCAircraft": aircraft,
    "Country211": by_folder(
        "country211/SPLIT/{name}/{number}.jpg", ["AD", "AE", "AF"], train="train", val="valid", test="test"
    ),
    "RenderedSST2": by_folder(
        "rendered-sst2/SPLIT/{name}/{number}.png", ["negative", "positive"], train="train", val="valid", test="test"
    ),
    "SUN397": scenes,
    "GTSRB": signs,
    "Places365": places,
    "Places365/small": lambda writer: places(writer, small=True),
}


def settings(root: Path, name: str, **others: object) -> DatasetSettings:
    values: dict[str, object] = {"source": Source.torchvision, "name": name, "root": str(root), "size": 10}
    return DatasetSettings(**{**values, "download": False, **others})


@pytest.fixture
def writer(tmp_path, monkeypatch):
    return Writer(tmp_path / "root", monkeypatch)


def test_every_set_of_files_is_tried():
    assert set(LAYOUTS) == {name for name, known in SETS.items() if known.kept is not Kept.memory}


@pytest.mark.parametrize("name", LAYOUTS)
def test_store_holds_each_split_s_images_under_torchvision_s_labels(name, writer, tmp_path):
    expected = LAYOUTS[name](writer)
    store = store_of(settings(writer.root, name), tmp_path / "stores")
    assert list(store.classes) == expected.classes
    wanted = {
        split: {path: label for label, paths in enumerate(groups) for path in paths}
        for split, groups in expected.splits.items()
    }
    found: dict[str, dict[str, int]] = {}
    for split in ("train", "dev", "val", "test"):
        labels = store.labels(split)
        rows = store.rows(split)
        if labels is None and rows:
            # Only Places365 does not publish the labels of its test.
            assert (name.partition("/")[0], split) == ("Places365", "test")
            labels = np.array([wanted[split][row] for row in rows])
        found[split] = dict(zip(rows, [] if labels is None else labels.tolist(), strict=True))
    if "val" not in wanted:
        assert found["val"]
        found["train"] |= found.pop("val")
    found["train"] |= found.pop("dev")
    assert {split: rows for split, rows in found.items() if rows} == wanted
    if name in ("Food101", "Flowers102", "OxfordIIITPet", "StanfordCars", "DTD", "GTSRB"):
        torchvision_s = getattr(datasets, name)(writer.root, split="test")
        theirs = {np.asarray(image.crop((2, 0, 12, 10))).tobytes(): label for image, label in torchvision_s}
        pairs = zip(store.images("test"), store.labels("test"), strict=True)
        assert {pixels.tobytes(): label for pixels, label in pairs} == theirs
    row = store.rows("train")[0]
    theirs = Image.open(writer.root / row).convert("RGB").crop((2, 0, 12, 10))
    assert np.array_equal(store.images("train")[0], np.asarray(theirs))


def test_set_of_files_is_listed_without_decoding_an_image(writer, monkeypatch):
    food(writer)

    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("an image was opened"))
    assert survey(settings(writer.root, "Food101")).counts == {"train": 12, "dev": 3, "val": 3, "test": 18}


def test_classes_file_keeps_the_named_ones_in_torchvision_s_order(writer, tmp_path):
    flowers(writer)
    (tmp_path / "few.txt").write_text("canterbury bells\npink primrose\n")
    listing = open_listing(settings(writer.root, "Flowers102", classes=str(tmp_path / "few.txt")))
    assert listing.classes == ("pink primrose", "canterbury bells")
    assert listing.counts()["test"] == 2 * IN_A_CLASS
    (tmp_path / "few.txt").write_text("dandelion\n")
    message = refusal(settings(writer.root, "Flowers102", classes=str(tmp_path / "few.txt")))
    assert re.search("class dandelion is not in .* Flowers102: train", message)


def test_images_that_are_not_there_are_told(writer, tmp_path):
    expected = food(writer)
    missing = expected.splits["train"][0][3]
    (writer.root / missing).unlink()
    with pytest.raises(DataError, match=missing):
        prepare(settings(writer.root, "Food101"), tmp_path / "stores")
    for path in (writer.root / "food-101" / "images").rglob("*.jpg"):
        path.unlink()
    assert re.search(r"Food101 is missing or damaged \(.* is missing\)", refusal(settings(writer.root, "Food101")))


def test_absent_set_is_told_in_one_line_and_leaves_nothing(tmp_path):
    (tmp_path / "root").mkdir()
    for name in LAYOUTS:
        assert f"{name} is missing or damaged" in refusal(settings(tmp_path / "root", name))
    assert list((tmp_path / "root").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "path", "content"),
    [
        ("Food101", "food-101/meta/train.json", "{"),
        ("Food101", "food-101/meta/train.json", "[]"),
        ("OxfordIIITPet", "oxford-iiit-pet/annotations/trainval.txt", "one two\n"),
        ("OxfordIIITPet", "oxford-iiit-pet/annotations/trainval.txt", "Abyssinian_0 9 1 1\n"),
        ("StanfordCars", "stanford_cars/devkit/cars_meta.mat", "no matlab file"),
        ("StanfordCars", "stanford_cars/devkit/cars_train_annos.mat", ""),
        ("DTD", "dtd/dtd/labels/train1.txt", "no class\n"),
        ("FGVCAircraft", "fgvc-aircraft-2013b/data/images_variant_train.txt", "0000 nothing known\n"),
        ("Places365", "categories_places365.txt", "x\n"),
        ("SUN397", "SUN397/ClassName.txt", "/a/abbey\n"),
    ],
)
def test_damaged_lists_are_told_in_one_line(name, path, content, writer):
    LAYOUTS[name](writer)
    writer.file(path, content)
    assert f"{name} is missing or damaged" in refusal(settings(writer.root, name))


def test_damaged_pixmap_is_a_bad_image(writer, tmp_path):
    expected = signs(writer)
    for path, content in zip(expected.splits["train"][0], (b"P6\n9 9\n255\n123", b"P6\nx", b"\x89PNG"), strict=True):
        writer.file(path, content)
    with pytest.raises(DataError, match=r"3 of its images cannot be read.*00000_00002.ppm \(not a portable pixmap\)"):
        prepare(settings(writer.root, "GTSRB"), tmp_path / "stores")


def test_files_that_are_there_are_not_asked_for_again(writer, monkeypatch):
    cars(writer)
    # torchvision refuses to download this one, whatever is there.
    assert open_listing(settings(writer.root, "StanfordCars", download=True)).classes
    (writer.root / "stanford_cars/devkit/cars_meta.mat").unlink()
    assert "StanfordCars cannot be downloaded" in refusal(settings(writer.root, "StanfordCars", download=True))


def test_absent_set_is_downloaded_unpacked_and_then_left_alone(tmp_path, monkeypatch):
    published = Writer(tmp_path / "published", monkeypatch)
    expected = imagenette("-160")(published)
    archive = published.root / "imagenette2-160.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(published.root / "imagenette2-160", "imagenette2-160")
    md5 = hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(published.root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{archive.name}"
        monkeypatch.setattr(datasets.Imagenette, "_ARCHIVES", {"160px": (url, md5)})
        wanted = settings(tmp_path / "root", "Imagenette/160px", download=True)
        store = store_of(wanted, tmp_path / "stores")
        server.shutdown()
    assert list(store.classes) == expected.classes
    assert store.counts["val"] == NUM_CLASSES * IN_A_CLASS
    # The server is gone: nothing is asked for again.
    assert prepare(wanted, tmp_path / "stores") == store.path
