"""Tar shards in the WebDataset layout: members with the same key are one sample.

The key is a member's path up to the first dot of its file name. The rest is the kind of the member: an image (`jpg`,
`png`, …), or a label: `cls` (a number or a name), `json` (its `label`), or `txt` (a name). Shards are `train-*.tar`,
`val-*.tar` and `test-*.tar`, or what patterns name.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import IO

from workers.data.decoding import SUFFIXES
from workers.data.sources.classes import (
    SplitLabels,
    file_listing,
    found_at,
    grouped,
    naming,
    read_class_names,
)
from workers.data.sources.files import FileListing, ImageFile
from workers.data.sources.listing import LeftOut, or_skip
from workers.data.sources.patterns import split_files
from workers.data.sources.tar import ArchivesAndFiles, Member, Span, path_in_archive, read_headers, readable
from workers.data.sources.tree import Entry, Tree, open_root, require_one_line
from workers.errors import DataError
from workers.settings import DatasetSettings, OnBad
from workers.threads import map_in_order

_IMAGES = {"jpg", "jpeg", "png", "webp", "bmp", "gif"}
# All that can be read. The others may be masks beside an image, so they count where a sample has none of the first.
_READABLE = {suffix.removeprefix(".") for suffix in SUFFIXES}
# In this order, because a text beside a number may be a caption.
_LABELS = ("cls", "json", "txt")
# A longer file beside an image is not a label.
_LABEL_BYTES = 1 << 20
# Shards whose index stays in memory, so that a survey and the preparation after it read headers only once.
_KEPT_SHARDS = 20_000
_NOWHERE = Span(0, 0)


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample: its image's name and bytes in the shard, and its label as written, "" for none.

    Of an incomplete one, `name` is the key and `problem` the reason; `is_note` says that it may not be a sample at all.
    """

    name: str
    label: str = ""
    span: Span = _NOWHERE
    problem: str = ""
    is_note: bool = False


@dataclass(frozen=True, slots=True)
class _Place:
    shard: Entry
    sample: Sample

    @property
    def shown(self) -> str:
        """The sample's path in messages."""
        return f"{self.shard.path}/{self.sample.name}"

    @property
    def path(self) -> str:
        span = self.sample.span
        return path_in_archive(self.shard.path, span.offset, span.size, self.sample.name)


def list_webdataset(settings: DatasetSettings) -> FileListing:
    """Lists shards by their headers, and reads labels, but no images.

    With `on_bad=skip`, samples of train and val without an image or a label are reported as left out.

    Raises:
        DataError: there are no shards, a shard is damaged, a sample is incomplete, a label is no class, or
            `file_listing` raises.
    """
    tree = open_root(settings)
    left_out: list[LeftOut] = []
    samples = {
        split: _samples(tree, settings, split, shards, left_out)
        for split, shards in split_files(tree, settings, ".tar").items()
    }
    written = {split: [each.sample.label for each in places] for split, places in samples.items()}
    names = naming(written["train"], read_class_names(settings), tree.describe(""))
    by_class = {}
    for split, places in samples.items():
        labels = SplitLabels(settings, split, names, written[split], "sample", f" (.{', .'.join(_LABELS)})")
        by_class[split] = _by_class(tree, places, labels)
        left_out += labels.left_out
    found = found_at(tree.describe(""), names.order(by_class["train"]), by_class, tuple(left_out))
    return file_listing(settings, ArchivesAndFiles(tree), found)


def _samples(
    tree: Tree, settings: DatasetSettings, split: str, shards: Sequence[Entry], left_out: list[LeftOut]
) -> list[_Place]:
    found: list[_Place] = []
    indices = map_in_order(partial(index_shard, tree), shards, tree.num_readers)
    for shard, samples in zip(shards, indices, strict=True):
        for sample in samples:
            problem = sample.problem
            place = _Place(shard, sample)
            if not problem:
                found.append(place)
            elif sample.is_note or (split != "test" and settings.on_bad is OnBad.skip):
                left_out.append(LeftOut(split, place.shown, problem))
            else:
                raise DataError(f"{tree.describe(shard.path)}: {problem}: fix the shard{or_skip(split)}")
    return found


@lru_cache(maxsize=_KEPT_SHARDS)
def index_shard(tree: Tree, shard: Entry) -> tuple[Sample, ...]:
    """Returns the samples of a tar file in its order; extensions are compared in lower case.

    Raises:
        DataError: the file is no tar, compressed or damaged, or a name does not fit on one line.
    """
    where = tree.describe(shard.path)
    parts: dict[str, _Parts] = {}
    with tree.reader(shard.path) as file, readable(where):
        for member in read_headers(file, Span(0, shard.size), where):
            _take(parts, member, file, where)
    return tuple(each.sample() for each in parts.values())


def _take(parts: dict[str, "_Parts"], member: Member, file: IO[bytes], where: str) -> None:
    """Adds an image or a label to the sample of its key; ignores other members."""
    folder, _, base = member.name.rpartition("/")
    stem, dot, extension = base.partition(".")
    lower = extension.lower()
    # Hidden files have no stem; macOS adds one beside each file.
    if not stem or not dot or not (lower.rpartition(".")[2] in _READABLE or lower in _LABELS):
        return
    require_one_line(member.name, where)
    # `tar cf x.tar .` puts ./ before every name.
    key = "/".join((*(part for part in folder.split("/") if part not in ("", ".")), stem))
    own = parts.setdefault(key, _Parts(key))
    if lower in _READABLE:
        if lower in own.images:
            own.problem = own.problem or f"{member.name} occurs twice"
        own.images[lower] = member
    elif lower not in _LABELS:
        own.beside = member.name
    elif member.problem or member.span.size > _LABEL_BYTES:
        own.problem = f"{member.name} {member.problem or f'has {member.span.size} bytes, too many for a label'}"
    else:
        file.seek(member.span.offset)
        own.labels[lower] = file.read(member.span.size)


@dataclass(slots=True)
class _Parts:
    """The members of one shard with one key: images and the content of labels, by extension.

    `beside` is an image whose extension has a dot, such as seg.png, which is not the sample's image.
    """

    key: str
    images: dict[str, Member] = field(default_factory=dict)
    labels: dict[str, bytes] = field(default_factory=dict)
    problem: str = ""
    beside: str = ""

    def sample(self) -> Sample:
        self.images = {kind: each for kind, each in self.images.items() if kind in _IMAGES} or self.images
        problem = self.problem or self._image_problem()
        if problem:
            # A text without an image and a class may be a note on the dataset.
            told = _json_label(self.labels.get("json", b"").decode("utf-8-sig", errors="surrogateescape"))
            is_note = not (self.images or self.beside or "cls" in self.labels or told)
            return Sample(self.key, problem=problem, is_note=is_note)
        ((extension, image),) = self.images.items()
        written = image.name[-len(extension) :]
        return Sample(f"{self.key}.{written}", sys.intern(self._label()), image.span)

    def _image_problem(self) -> str:
        if len(self.images) > 1:
            names = " and ".join(member.name for member in self.images.values())
            return f"{self.key} has {len(self.images)} images ({names})"
        for image in self.images.values():
            return f"{image.name} {image.problem}" if image.problem else ""
        why = f" ({self.beside} does not count: a key ends at the first dot)" if self.beside else ""
        return f"{self.key} has no image{why}"

    def _label(self) -> str:
        """Returns the label as written; "" for none."""
        for extension in _LABELS:
            text = self.labels.get(extension, b"").decode("utf-8-sig", errors="surrogateescape").strip()
            label = _json_label(text) if extension == "json" else text
            if label:
                return label
        return ""


def _json_label(text: str) -> str:
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    label = told.get("label") if isinstance(told, dict) else None
    is_label = isinstance(label, str | int) and not isinstance(label, bool)
    return str(label).strip() if is_label else ""


def _by_class(tree: Tree, samples: Sequence[_Place], labels: SplitLabels) -> dict[str, list[ImageFile]]:
    """Groups images by class; raises DataError as `SplitLabels.class_of`."""
    files: list[ImageFile] = []
    for each in samples:
        where = f"{tree.describe(each.shard.path)}: {each.sample.name}"
        name = labels.class_of(each.sample.label, where, each.shown)
        if name is not None:
            files.append(ImageFile(each.path, each.sample.name, name, each.shard.version))
    return grouped(files)
