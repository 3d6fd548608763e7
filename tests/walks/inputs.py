"""Lays out real images as newcomers have them: `python inputs.py WHICH IMAGES FOLDER`.

IMAGES has `train/<class>/*` and `test/*`; FOLDER is made.
"""

import csv
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from PIL import Image

_ORIENTATION = 0x0112
_TRAIN, _TEST = 30, 8


def classes(images: Path, count: int) -> list[Path]:
    return sorted(images.joinpath("train").iterdir())[:count]


def some(folder: Path, count: int) -> list[Path]:
    return sorted(folder.iterdir())[:count]


def copied(sources: Iterable[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for source in sources:
        shutil.copy(source, folder / source.name)


def table(path: Path, lines: Iterable[Iterable[object]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)


def kaggle(images: Path, root: Path) -> None:
    """Writes train.csv (id_code,diagnosis), folders of images, and a sample submission in an order of its own."""
    lines = [("id_code", "diagnosis")]
    for number, each in enumerate(classes(images, 3)):
        copied(some(each, _TRAIN), root / "train_images")
        lines += [(path.stem, str(number)) for path in some(each, _TRAIN)]
    table(root / "train.csv", lines)
    test = some(images / "test", _TEST)
    copied(test, root / "test_images")
    table(root / "sample_submission.csv", [("id_code", "diagnosis"), *((path.stem, 0) for path in reversed(test))])


def roboflow(images: Path, root: Path) -> None:
    """Writes train/, valid/ and test/ with class folders, and the export's read-me."""
    for each in classes(images, 3):
        found = some(each, _TRAIN + 16)
        copied(found[:_TRAIN], root / "train" / each.name)
        copied(found[_TRAIN : _TRAIN + 8], root / "valid" / each.name)
        copied(found[_TRAIN + 8 :], root / "test" / each.name)
    (root / "README.dataset.txt").write_text("an export\n")


def flat(images: Path, root: Path) -> None:
    """Writes class folders alone, with what an archive of a Mac leaves beside them."""
    for each in classes(images, 3):
        copied(some(each, _TRAIN), root / each.name)
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "._x.JPEG").write_bytes(b"\0")
    (root / ".DS_Store").write_bytes(b"\0")


def phone(images: Path, root: Path) -> None:
    """Writes two classes whose pixels lie on their sides, with the orientation in EXIF."""
    _photographs(images, root, side=64, count=_TRAIN)


def photographs(images: Path, root: Path) -> None:
    """Writes two hundred photographs of twelve megapixels, as a phone makes them."""
    _photographs(images, root, side=3000, count=100)


def _photographs(images: Path, root: Path, side: int, count: int) -> None:
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    for each in classes(images, 2):
        (root / "train" / each.name).mkdir(parents=True)
        for path in some(each, count):
            with Image.open(path) as image:
                turned = image.convert("RGB").transpose(Image.Transpose.ROTATE_90).resize((side * 4 // 3, side))
            turned.save(root / "train" / each.name / f"{path.stem}.jpg", quality=80, exif=exif.tobytes())


def parquet(images: Path, root: Path) -> None:
    """Writes the shards of a hub: a struct of bytes and path, and numbers for labels."""
    import pyarrow as pa
    from pyarrow.parquet import write_table

    def rows(paths: Iterable[tuple[Path, int | None]]) -> pa.Table:
        pairs = list(paths)
        pixels = [{"bytes": path.read_bytes(), "path": path.name} for path, _ in pairs]
        return pa.table({"image": pixels, "label": [label for _, label in pairs]})

    (root / "data").mkdir(parents=True)
    pairs = [(path, number) for number, each in enumerate(classes(images, 3)) for path in some(each, _TRAIN)]
    write_table(rows(pairs), root / "data/train-00000-of-00001.parquet")
    unlabelled = [(path, None) for path in some(images / "test", _TEST)]
    write_table(rows(unlabelled), root / "data/test-00000-of-00001.parquet")


def small(images: Path, root: Path) -> None:
    """Writes two hundred images of ten classes."""
    for each in classes(images, 10):
        copied(some(each, 20), root / "train" / each.name)


def one_hot(images: Path, root: Path) -> None:
    """Writes a csv with a column of 0.0 and 1.0 for each class."""
    kinds = classes(images, 3)
    lines: list[tuple[str, ...]] = [("image", *(each.name for each in kinds))]
    for each in kinds:
        copied(some(each, _TRAIN), root / "train")
        lines += [(path.stem, *(f"{float(each == one)}" for one in kinds)) for path in some(each, _TRAIN)]
    table(root / "train.csv", lines)
    copied(some(images / "test", _TEST), root / "test")


def too_many(images: Path, root: Path) -> None:
    """Writes a val that has one class more than train."""
    kinds = classes(images, 3)
    for each in kinds:
        found = some(each, _TRAIN + 8)
        if each != kinds[-1]:
            copied(found[:_TRAIN], root / "train" / each.name)
        copied(found[_TRAIN:], root / "val" / each.name)


LAYOUTS: dict[str, Callable[[Path, Path], None]] = {
    each.__name__: each for each in (kaggle, roboflow, flat, phone, photographs, parquet, small, one_hot, too_many)
}


if __name__ == "__main__":
    which, images, folder = sys.argv[1:]
    LAYOUTS[which](Path(images), Path(folder))
