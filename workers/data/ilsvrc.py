"""ILSVRC-2012 as it was handed out: archives or folders, and the development kit that says what is what.

```
ILSVRC2012_devkit_t12.tar.gz   or its folder
ILSVRC2012_img_train.tar       a tar of n01440764.tar …; or a folder of those, or of class folders; or train/
ILSVRC2012_img_val.tar         or a folder of ILSVRC2012_val_00000001.JPEG …; or val/
ILSVRC2012_img_test*.tar       or a folder of ILSVRC2012_test_00000001.JPEG …; or test/; may be absent
```
Where an archive and a folder are both there, the archive counts. Classes are WNIDs in the order of their
ILSVRC2012_IDs, and so are labels; rows of val and test are in the order of their numbers, none missing, since a
submission has a line for each and names none of them. Archives are read in place.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from workers.data.decode import read_content
from workers.data.development_kit import DevelopmentKit, read_development_kit
from workers.data.files import FileListing, ImageFile
from workers.data.folder import is_image, list_entries, version_of, wanted_classes
from workers.data.tar_index import Member, Span, index_tar, read_span
from workers.errors import DataError
from workers.settings import DatasetSettings

_PREFIX = "ILSVRC2012_img_"
# How a path names an image in an archive: archive@offset+size/name.
_IN_ARCHIVE = re.compile(r"(?P<archive>.+?)@(?P<offset>\d+)\+(?P<size>\d+)/.+", re.DOTALL)


@dataclass(frozen=True)
class ArchivesAndFiles:
    """Images below a folder of this machine: files, or members of uncompressed tars, whose paths say where they lie.

    So a path is all that a reader needs, in whatever process: no index of a million images has to travel with it.
    """

    root: Path

    @property
    def identity(self) -> str:
        return str(self.root.resolve())

    def read(self, path: str) -> bytes:
        found = _IN_ARCHIVE.fullmatch(path)
        if found is None:
            return read_content(self.root / path)
        return read_span(self.root / found["archive"], Span(int(found["offset"]), int(found["size"])))


def list_ilsvrc(settings: DatasetSettings) -> FileListing:
    """Lists the files of the challenge; reads the kit, and of archives the headers only.

    Raises:
        DataError: no root, no kit, no train or val; a class without images; an archive that is damaged; images and
            ground truth that do not match, or a number that is missing.
    """
    if settings.root is None:
        raise DataError("no root: set datasets.<name>.root=FOLDER, the folder with the files of ILSVRC-2012")
    root = Path(settings.root).expanduser()
    if not root.is_dir():
        raise DataError(f"{root}: no such folder: set datasets.<name>.root to the folder with ILSVRC-2012's files")
    kit = read_development_kit(root)
    wanted = set(kit.wnids)
    if settings.classes is not None:
        wanted = set(wanted_classes(settings.classes, wanted, f"is no low-level synset of {kit.where}"))
    val = _val(root, kit)
    listing = FileListing(
        contents=ArchivesAndFiles(root),
        classes=tuple(wnid for wnid in kit.wnids if wnid in wanted),
        # The ids stay the kit's, also where some classes are left out.
        class_ids=tuple(str(number) for number, wnid in enumerate(kit.wnids, start=1) if wnid in wanted),
        train=_train(root, kit, wanted),
        val=tuple(file for file in val if file.class_name in wanted),
        test=_test(root),
        other_held_out=tuple(file for file in val if file.class_name not in wanted),
        labelled_test=False,
        val_fraction=settings.val_fraction,
        dev_fraction=settings.dev_fraction,
    )
    if listing.val == ():
        raise DataError(f"{root}: none of val's images is of the {len(wanted)} classes: name others in the file")
    return listing


def _train(root: Path, kit: DevelopmentKit, wanted: set[str]) -> tuple[ImageFile, ...]:
    archive = root / f"{_PREFIX}train.tar"
    if archive.is_file():
        spans = {PurePosixPath(each.name).name: each.span for each in _members(archive, None)}
        _require_known((name.removesuffix(".tar") for name in spans), kit, archive)
        classes = {
            wnid: _inside(archive, archive.name, spans[f"{wnid}.tar"], wnid)
            for wnid in kit.wnids
            if wnid in wanted and f"{wnid}.tar" in spans
        }
        return _every_class(classes, kit, wanted, archive)
    folder = _folder(root, "train")
    if folder is None:
        raise DataError(
            f"{root}: no {archive.name}, {archive.stem}/ or train/: put ILSVRC-2012's training images there"
        )
    found = {entry.name: entry for entry in list_entries(folder) if entry.is_dir() or entry.name.endswith(".tar")}
    _require_known((name.removesuffix(".tar") for name in found), kit, folder)
    classes = {}
    for wnid in kit.wnids:
        if wnid in wanted and f"{wnid}.tar" in found:
            classes[wnid] = _inside(folder / f"{wnid}.tar", f"{folder.name}/{wnid}.tar", None, wnid)
        elif wnid in wanted and wnid in found:
            classes[wnid] = [
                ImageFile(f"{folder.name}/{wnid}/{entry.name}", f"{wnid}/{entry.name}", wnid, version_of(entry))
                for entry in list_entries(folder / wnid)
                if is_image(entry)
            ]
    return _every_class(classes, kit, wanted, folder)


def _every_class(
    classes: dict[str, list[ImageFile]], kit: DevelopmentKit, wanted: set[str], where: Path
) -> tuple[ImageFile, ...]:
    for number, wnid in enumerate(kit.wnids, start=1):
        if wnid in wanted and not classes.get(wnid):
            lacks = "holds no image" if wnid in classes else f"has neither {wnid}.tar nor a folder there"
            raise DataError(f"{where}: class {wnid} (ILSVRC2012_ID {number}) {lacks}: add it, or fetch it again")
    return tuple(file for files in classes.values() for file in files)


def _require_known(names: Iterable[str], kit: DevelopmentKit, where: Path) -> None:
    for name in sorted(set(names) - set(kit.wnids)):
        raise DataError(f"{where}: {name!a} is no low-level synset of {kit.where}: remove it, or fetch the right kit")


def _members(archive: Path, within: Span | None, inner: str = "") -> list[Member]:
    try:
        with archive.open("rb") as file:
            whole = within or Span(0, os.fstat(file.fileno()).st_size)
            return list(index_tar(file, whole, f"{archive}: {inner}" if inner else str(archive)))
    except OSError as error:
        raise DataError(f"{archive}: cannot be read: {error.strerror}") from error


def _inside(archive: Path, path: str, within: Span | None, wnid: str) -> list[ImageFile]:
    """The images of a class's tar, which is `archive` or lies `within` it."""
    version = version_of(archive)
    files = {}
    for member in _members(archive, within, "" if within is None else f"{wnid}.tar"):
        name = PurePosixPath(member.name).name
        if name in files:
            raise DataError(f"{archive}: {wnid}.tar: {name} occurs twice; fetch it again")
        files[name] = _in_archive(path, member, f"{wnid}/{name}", wnid, version)
    return list(files.values())


def _in_archive(path: str, member: Member, name: str, class_name: str, version: str) -> ImageFile:
    return ImageFile(f"{path}@{member.span.offset}+{member.span.size}/{name}", name, class_name, version)


def _folder(root: Path, split: str) -> Path | None:
    """The folder of a split: named as its archive would be unpacked to, or as the split."""
    named = [
        entry.name for entry in list_entries(root) if entry.is_dir() and entry.name.startswith(f"{_PREFIX}{split}")
    ]
    for name in [*named, split]:
        if (root / name).is_dir():
            return root / name
    return None


def _val(root: Path, kit: DevelopmentKit) -> list[ImageFile]:
    files = _numbered(root, "val")
    if not files:
        raise DataError(f"{root}: no {_PREFIX}val.tar, {_PREFIX}val/ or val/ with images: put them there")
    if len(files) != len(kit.val_ids):
        raise DataError(
            f"{root}: {len(files)} images of val, but the ground truth in {kit.where} has {len(kit.val_ids)} lines; "
            "fetch what is incomplete again"
        )
    known, labelled = set(kit.wnids), []
    for file, number in zip(files, kit.val_ids, strict=True):
        wnid = kit.wnids[number - 1]
        if file.class_name in known and file.class_name != wnid:
            raise DataError(f"{root}: {file.path} lies in another class than the ground truth's, {wnid}: move it")
        labelled.append(replace(file, class_name=wnid))
    return labelled


def _test(root: Path) -> tuple[ImageFile, ...]:
    return tuple(replace(file, class_name="") for file in _numbered(root, "test"))


def _numbered(root: Path, split: str) -> list[ImageFile]:
    """A split's images in the order of their numbers, from 1 on without a gap; `class_name` is the folder of each."""
    found = _split_files(root, split)
    numbers = {}
    for file in found:
        number = re.fullmatch(rf"ILSVRC2012_{split}_(\d{{8}})\.JPEG", file.name)
        if number is None or int(number[1]) in numbers:
            problem = "occurs twice" if number else f"is not named as ILSVRC2012_{split}_00000001.JPEG is"
            raise DataError(f"{root}: {file.path} {problem}: remove or rename it")
        numbers[int(number[1])] = file
    for expected in range(1, len(found) + 1):
        if expected not in numbers:
            raise DataError(
                f"{root}: ILSVRC2012_{split}_{expected:08d}.JPEG is missing, and {split} has later ones: fetch it again"
            )
    return [numbers[number] for number in sorted(numbers)]


def _split_files(root: Path, split: str) -> list[ImageFile]:
    archives = [
        root / entry.name
        for entry in list_entries(root)
        if entry.name.startswith(f"{_PREFIX}{split}") and entry.name.endswith(".tar") and not entry.is_dir()
    ]
    if len(archives) > 1:
        raise DataError(f"{root}: both {archives[0].name} and {archives[1].name}: keep one of them there")
    if archives:
        version = version_of(archives[0])
        members = [(PurePosixPath(member.name), member) for member in _members(archives[0], None)]
        return [_in_archive(archives[0].name, each, path.name, path.parent.name, version) for path, each in members]
    folder = _folder(root, split)
    if folder is None:
        return []
    files = []
    for entry in list_entries(folder):
        if is_image(entry):
            files.append(ImageFile(f"{folder.name}/{entry.name}", entry.name, "", version_of(entry)))
        elif entry.is_dir():
            files += [
                ImageFile(f"{folder.name}/{entry.name}/{inner.name}", inner.name, entry.name, version_of(inner))
                for inner in list_entries(folder / entry.name)
                if is_image(inner)
            ]
    return files
