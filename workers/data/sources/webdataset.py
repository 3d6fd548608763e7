"""Tar shards, as ImageNet is commonly published: members that share a key are one sample.

The key is a member's path up to the first dot of its last part; the rest says what the member is: an image (`jpg`,
`png`, …), or its label: `cls` (a number or a name), `json` (its `label`), or `txt` (a name). Shards are
`train-*.tar`, `val-*.tar` and `test-*.tar`, or what patterns name.
"""

import json
import sys
import tarfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import IO

from workers.data.sources.classes import NO_CLASS, Found, Naming, file_listing, grouped, naming, read_class_names
from workers.data.sources.files import FileListing, ImageFile
from workers.data.sources.listing import LeftOut
from workers.data.sources.patterns import split_files
from workers.data.sources.tar import ArchivesAndFiles, Span, Window, path_in_archive, require_end
from workers.data.sources.tree import Entry, Tree, driver_errors, one_line, open_root, require_one_line, said_by
from workers.errors import DataError
from workers.settings import DatasetSettings, OnBad
from workers.threads import map_in_order

# Labels are short; a longer file beside an image is none.
_LABEL_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """A member's bytes: `size` of them from `offset` of the shard on; `problem` is why they cannot be had, or ""."""

    name: str
    offset: int
    size: int
    problem: str = ""


@dataclass(slots=True)
class Sample:
    """The members of one shard that have one key: images by their extension, small files by theirs, with content.

    `beside` is an image whose extension has a dot, as in seg.png: it is none of the sample's own.
    """

    key: str
    images: dict[str, Member] = field(default_factory=dict)
    labels: dict[str, bytes] = field(default_factory=dict)
    problem: str = ""
    beside: str = ""


def index_shard(
    tree: Tree, shard: Entry, image_extensions: frozenset[str], label_extensions: frozenset[str]
) -> tuple[Sample, ...]:
    """The samples of a tar file in its order; extensions are compared in lower case.

    Raises:
        DataError: no tar file, a compressed or damaged or incomplete one, or a name that does not fit on one line.
    """
    at = tree.describe(shard.path)
    samples: dict[str, Sample] = {}
    with tree.reader(shard.path) as file:
        try:
            # A window never reads as much as a hostile header asks for.
            window = Window(file, Span(0, shard.size))
            with tarfile.TarFile(fileobj=window, mode="r") as tar:  # type: ignore[arg-type]
                reached = -1
                while (info := tar.next()) is not None:
                    if info.offset <= reached:
                        raise DataError(f"{at}: is damaged at byte {info.offset}: its headers lead in a circle")
                    reached = info.offset
                    # What tarfile keeps of each member would outgrow what is wanted of them.
                    tar.members.clear()  # type: ignore[attr-defined]
                    _take(samples, info, file, shard, at, image_extensions, label_extensions)
                require_end(window, tar.offset, at)
        except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
            raise DataError(f"{at}: not a plain tar file, or damaged ({one_line(error)}): {_advice(file)}") from error
        except driver_errors() as error:
            raise DataError(f"{at}: {said_by(error)}") from error
    return tuple(samples.values())


def _take(
    samples: dict[str, Sample],
    info: tarfile.TarInfo,
    file: IO[bytes],
    shard: Entry,
    at: str,
    image_extensions: frozenset[str],
    label_extensions: frozenset[str],
) -> None:
    folder, _, base = info.name.rpartition("/")
    stem, dot, extension = base.partition(".")
    lower = extension.lower()
    # Hidden files have no stem: what a Mac adds beside each file is none of the data.
    if info.isdir() or not stem or not dot:
        return
    is_beside = lower.rpartition(".")[2] in image_extensions and lower not in image_extensions
    if not is_beside and lower not in image_extensions | label_extensions:
        return
    require_one_line(info.name, at)
    # `tar cf x.tar .` puts ./ before every name.
    parts = [part for part in folder.split("/") if part not in ("", ".")]
    key = "/".join((*parts, stem))
    sample = samples.get(key)
    if sample is None:
        sample = samples[key] = Sample(key)
    problem = _problem(info, parts, shard)
    if is_beside:
        sample.beside = info.name
    elif lower in image_extensions:
        if lower in sample.images:
            problem = "is there twice"
        sample.images[lower] = Member(info.name, info.offset_data, info.size, problem)
    elif problem or info.size > _LABEL_BYTES:
        sample.problem = f"{info.name} {problem or f'has {info.size} bytes, too many for a label'}"
    else:
        file.seek(info.offset_data)
        sample.labels[lower] = file.read(info.size)


def _problem(info: tarfile.TarInfo, folders: Collection[str], shard: Entry) -> str:
    if ".." in folders or info.name.startswith("/"):
        return "has a name that leads out of the archive"
    if not info.isreg() or info.issparse():
        kind = "a link" if info.issym() or info.islnk() else "no plain file"
        return f"is {kind}"
    if info.size < 0 or info.offset_data + info.size > shard.size:
        return "reaches beyond the end of the shard"
    return ""


def _advice(file: IO[bytes]) -> str:
    file.seek(0)
    if file.read(2) == b"\x1f\x8b":
        return "unpack it with gunzip, since images are read at their places in a plain one"
    return "fetch it again"


IMAGES = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "gif"})
# In this order: a text beside a number may be a caption.
LABELS = ("cls", "json", "txt")


# Shards whose index is kept, so that surveying and then preparing a set reads its headers once.
_KEPT_SHARDS = 20_000


@dataclass(frozen=True, slots=True)
class _Sample:
    """A sample: its image's name and place in the shard, and its label as written, "" for none.

    Of one that is not whole, `name` is the key and `problem` says why; `is_note` where it may be no sample at all.
    """

    name: str
    label: str = ""
    offset: int = 0
    size: int = 0
    problem: str = ""
    is_note: bool = False


@dataclass(frozen=True, slots=True)
class _Place:
    shard: Entry
    sample: _Sample

    @property
    def shown(self) -> str:
        """As people are told of it."""
        return f"{self.shard.path}/{self.sample.name}"

    @property
    def path(self) -> str:
        sample = self.sample
        return path_in_archive(self.shard.path, sample.offset, sample.size, sample.name)


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
    names = naming((each.sample.label for each in samples["train"]), read_class_names(settings))
    by_class = {split: _by_class(tree, split, each, names) for split, each in samples.items()}
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
    return file_listing(settings, ArchivesAndFiles(tree), found)


def _samples(
    tree: Tree, settings: DatasetSettings, split: str, shards: Sequence[Entry], left_out: list[LeftOut]
) -> list[_Place]:
    found: list[_Place] = []
    indices = map_in_order(partial(_index, tree), shards, tree.num_readers)
    for shard, samples in zip(shards, indices, strict=True):
        for sample in samples:
            problem = sample.problem
            if not problem and not sample.label and split != "test":
                problem = f"{sample.name} has no label (.{', .'.join(LABELS)})"
            place = _Place(shard, sample)
            if not problem:
                found.append(place)
            elif sample.is_note or (split != "test" and settings.on_bad is OnBad.skip):
                left_out.append(LeftOut(split, place.shown, problem))
            else:
                raise DataError(f"{tree.describe(shard.path)}: {problem}: mend the shard{_or_skip(split)}")
    return found


@lru_cache(maxsize=_KEPT_SHARDS)
def _index(tree: Tree, shard: Entry) -> tuple[_Sample, ...]:
    return tuple(map(_compact, index_shard(tree, shard, IMAGES, frozenset(LABELS))))


def _compact(sample: Sample) -> _Sample:
    problem = sample.problem or _problem_of(sample)
    if problem:
        return _Sample(sample.key, problem=problem, is_note=_is_note(sample))
    ((extension, image),) = sample.images.items()
    written = image.name[-len(extension) :]
    return _Sample(f"{sample.key}.{written}", sys.intern(_label(sample)), image.offset, image.size)


def _is_note(sample: Sample) -> bool:
    """Whether a text may be a note on the set, as lie beside its samples: no image, and nothing that tells a class."""
    if sample.images or sample.beside or "cls" in sample.labels:
        return False
    return not _json_label(sample.labels.get("json", b"").decode(errors="surrogateescape"))


def _or_skip(split: str) -> str:
    return "" if split == "test" else ", or set datasets.<name>.on_bad=skip"


def _problem_of(sample: Sample) -> str:
    if len(sample.images) != 1:
        names = " and ".join(member.name for member in sample.images.values())
        if names:
            return f"{sample.key} has {len(sample.images)} images ({names})"
        why = f" ({sample.beside} is none of its own: a key ends at the first dot)" if sample.beside else ""
        return f"{sample.key} has no image{why}"
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


def _by_class(tree: Tree, split: str, samples: Sequence[_Place], names: Naming) -> dict[str, list[ImageFile]]:
    """Images by class; a test in which some have a label and others none is refused."""
    unlabelled = next((each for each in samples if not each.sample.label), None)
    if unlabelled is not None and any(each.sample.label for each in samples):
        raise DataError(f"{tree.describe(unlabelled.shown)}: no label, though others of {split} have one: add it")
    classes: dict[str, str] = {"": NO_CLASS}
    pairs: list[tuple[str, ImageFile]] = []
    for each in samples:
        label = each.sample.label
        if label not in classes:
            require_one_line(label, tree.describe(each.shown))
            classes[label] = names.name_of(label, tree.describe(each.shown))
        pairs.append((classes[label], ImageFile(each.path, each.sample.name, classes[label], each.shard.version)))
    return grouped(pairs)
