"""Tar shards, as ImageNet is commonly published: members that share a key are one sample.

The key is a member's path up to the first dot of its last part; the rest says what the member is: an image (`jpg`,
`png`, …), or its label: `cls` (a number or a name), `json` (its `label`), or `txt` (a name). Shards are
`train-*.tar`, `val-*.tar` and `test-*.tar`, or what patterns name.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from workers.data.classes import NO_CLASS, Found, Naming, file_listing, grouped, naming, read_class_names
from workers.data.decode import BadImage
from workers.data.files import FileListing, ImageFile
from workers.data.listing import LeftOut
from workers.data.patterns import split_files
from workers.data.pool import map_in_order
from workers.data.shard_index import Member, Sample, index_shard
from workers.data.tree import Entry, Tree, open_root, require_one_line
from workers.errors import DataError
from workers.settings import DatasetSettings, OnBad

IMAGES = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "gif"})
# In this order: a text beside a number may be a caption.
LABELS = ("cls", "json", "txt")


@dataclass(frozen=True, slots=True)
class _Place:
    shard: str
    offset: int
    size: int


@dataclass(frozen=True)
class ShardMembers:
    """Images that lie in tar shards; each is read at its place, into memory."""

    tree: Tree
    places: Mapping[str, _Place]

    @property
    def identity(self) -> str:
        return self.tree.identity

    @property
    def num_readers(self) -> int | None:
        return self.tree.num_readers

    def read(self, path: str) -> bytes:
        place = self.places[path]
        content = self.tree.read_range(place.shard, place.offset, place.size)
        if len(content) < place.size:
            raise BadImage("the shard ends within it")
        if not content:
            raise BadImage("empty file")
        return content


@dataclass(frozen=True, slots=True)
class _Labelled:
    """A sample with its image and its label as written, "" for none."""

    image: Member
    shard: Entry
    name: str
    label: str

    @property
    def path(self) -> str:
        return f"{self.shard.path}/{self.image.name}"


def list_webdataset(settings: DatasetSettings) -> FileListing:
    """Lists shards by their headers; reads labels, and no image.

    With `on_bad=skip`, samples of train and val without a plain image or a label are left out and listed.

    Raises:
        DataError: no shards, a damaged one, a sample that is not whole, a label that is no class, or what
            `file_listing` refuses.
    """
    tree = open_root(settings)
    shards = split_files(tree, settings, ".tar")
    left_out: list[LeftOut] = []
    samples = {
        "train": _samples(tree, settings, "train", shards.train, left_out),
        "val": _samples(tree, settings, "val", shards.val, left_out),
        "test": _samples(tree, settings, "test", shards.test, left_out),
    }
    names = naming((each.label for each in samples["train"]), read_class_names(settings))
    by_class = {split: _by_class(tree, split, each, names) for split, each in samples.items()}
    places = {
        each.path: _Place(each.shard.path, each.image.offset, each.image.size)
        for split in samples.values()
        for each in split
    }
    found = Found(
        order=names.order(by_class["train"]),
        train=by_class["train"],
        val=by_class["val"] if shards.val else None,
        test=by_class["test"],
        train_at=f"{tree.describe('')}: train",
        val_at=f"{tree.describe('')}: val",
        test_at=f"{tree.describe('')}: test",
        left_out=tuple(left_out),
    )
    return file_listing(settings, ShardMembers(tree, places), found)


def _samples(
    tree: Tree, settings: DatasetSettings, split: str, shards: Iterable[Entry], left_out: list[LeftOut]
) -> list[_Labelled]:
    shards = tuple(shards)
    index = partial(index_shard, tree, image_extensions=IMAGES, label_extensions=frozenset(LABELS))
    found: list[_Labelled] = []
    for shard, samples in zip(shards, map_in_order(index, shards, tree.num_readers), strict=True):
        for sample in samples:
            if not sample.images and "cls" not in sample.labels:
                # Notes on the set lie beside its samples; but they may as well be what is left of one.
                left_out.append(LeftOut(split, f"{shard.path}/{sample.key}", "has no image"))
                continue
            problem = sample.problem or _problem_of(sample)
            label = "" if problem else _label(sample)
            if not problem and not label and split != "test":
                problem = f"{sample.key} has no label (.{', .'.join(LABELS)})"
            if problem and (split == "test" or settings.on_bad is OnBad.stop):
                raise DataError(f"{tree.describe(shard.path)}: {problem}: mend the shard{_or_skip(split)}")
            if problem:
                left_out.append(LeftOut(split, f"{shard.path}/{sample.key}", problem))
                continue
            (image,) = sample.images.values()
            extension = image.name.rpartition("/")[2].partition(".")[2]
            found.append(_Labelled(image, shard, f"{sample.key}.{extension}", label))
    return found


def _or_skip(split: str) -> str:
    return "" if split == "test" else ", or set datasets.<name>.on_bad=skip"


def _problem_of(sample: Sample) -> str:
    if len(sample.images) != 1:
        names = " and ".join(member.name for member in sample.images.values())
        return f"{sample.key} has {len(sample.images)} images ({names})" if names else f"{sample.key} has no image"
    (image,) = sample.images.values()
    return f"{image.name} {image.problem}" if image.problem else ""


def _label(sample: Sample) -> str:
    """The label as written; "" for none, or for -1, which stands for none."""
    label = next((found for found in _labels(sample) if found), "")
    return "" if label == "-1" else label


def _labels(sample: Sample) -> Iterator[str]:
    for extension in LABELS:
        if extension in sample.labels:
            text = sample.labels[extension].decode(errors="surrogateescape").strip()
            yield _json_label(text) if extension == "json" else text


def _json_label(text: str) -> str:
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    label = told.get("label") if isinstance(told, dict) else None
    is_label = isinstance(label, str | int) and not isinstance(label, bool)
    return str(label).strip() if is_label else ""


def _by_class(tree: Tree, split: str, samples: Iterable[_Labelled], names: Naming) -> dict[str, list[ImageFile]]:
    """Images by class; a test in which some samples have a label and others none is refused."""
    samples = tuple(samples)
    unlabelled = next((each for each in samples if not each.label), None)
    if unlabelled is not None and any(each.label for each in samples):
        raise DataError(f"{tree.describe(unlabelled.path)}: no label, though others of {split} have one: add it")
    classes: dict[str, str] = {"": NO_CLASS}
    for each in samples:
        if each.label not in classes:
            require_one_line(each.label, tree.describe(each.path))
            classes[each.label] = names.name_of(each.label, tree.describe(each.path))
    return grouped(
        (classes[each.label], ImageFile(each.path, each.name, classes[each.label], each.shard.version))
        for each in samples
    )
