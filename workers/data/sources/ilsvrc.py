"""ILSVRC-2012 as published: archives or folders, and the development kit with classes and ground truth.

```
ILSVRC2012_devkit_t12.tar.gz   or its folder
ILSVRC2012_img_train.tar       a tar of n01440764.tar …; or a folder of those, or of class folders; or train/
ILSVRC2012_img_val.tar         or a folder of ILSVRC2012_val_00000001.JPEG …; or val/
ILSVRC2012_img_test*.tar       or a folder of ILSVRC2012_test_00000001.JPEG …; or test/; may be absent
```
Kaggle's copy (`ILSVRC/Data/CLS-LOC/`) has no kit, and is read as class folders.

If there are both an archive and a folder, the archive is used. Classes and labels are in the order of their
ILSVRC2012_IDs. Rows of val and test are in the order of their numbers, and none may be missing, because a submission
has a line for each and does not name them. Archives are read in place.
"""

import re
from dataclasses import replace
from pathlib import PurePosixPath

from workers.data.sources.classes import NO_CLASS, ByClass, file_listing, found_at, grouped, kept_classes
from workers.data.sources.files import FileListing, ImageFile, may_be_image
from workers.data.sources.folder import KAGGLE_ILSVRC, list_folder
from workers.data.sources.ilsvrc_devkit import DevelopmentKit, read_development_kit
from workers.data.sources.tar import ArchivesAndFiles, Member, Span, index_tar, path_in_archive
from workers.data.sources.tree import Entry, Tree, open_root
from workers.errors import DataError
from workers.settings import DatasetSettings

_PREFIX = "ILSVRC2012_img_"
_TASK_3 = "_t3"


def list_ilsvrc(settings: DatasetSettings) -> FileListing:
    """Lists the files of the challenge; reads the kit and the headers of archives.

    Raises:
        DataError: the root, the kit, train or val is missing, a class has no images, an archive is damaged, images and
            ground truth do not match, or a number is missing.
    """
    tree = open_root(settings)
    if tree.find(KAGGLE_ILSVRC) is not None:
        return list_folder(settings)
    kit = read_development_kit(tree)
    wanted = kept_classes(settings, kit.wnids, f"the low-level synsets of {kit.where}")
    train = _train(tree, kit, wanted)
    # The tars of other classes are not read.
    splits: dict[str, ByClass] = {
        "train": {**dict.fromkeys(kit.wnids, ()), **train},
        "val": grouped(_val(tree, kit)),
        "test": grouped(replace(file, class_name=NO_CLASS) for file in _numbered(tree, "test")),
    }
    found = replace(found_at(tree.describe(""), kit.wnids, splits), train_at=kit.where)
    # Classes keep the kit's ids even if others are left out.
    ids = tuple(str(number) for number, wnid in enumerate(kit.wnids, start=1) if wnid in wanted)
    return replace(file_listing(settings, ArchivesAndFiles(tree), found), class_ids=ids)


def _train(tree: Tree, kit: DevelopmentKit, wanted: set[str]) -> dict[str, list[ImageFile]]:
    """Lists the images of each wanted class, from the tar of tars or a folder of class tars or class folders."""
    folders: dict[str, Entry] = {}
    if (archive := _archive(tree, "train")) is not None:
        where = tree.describe(archive.path)
        tars = {PurePosixPath(each.name).name: (archive, each.span) for each in _members(tree, archive)}
    elif (folder := _folder(tree, "train")) is not None:
        where, entries = tree.describe(folder), tree.entries(folder)
        tars = {each.name: (each, Span(0, each.size)) for each in entries if each.name.endswith(".tar")}
        folders = {each.name: each for each in entries if each.is_folder and each.name not in tars}
    else:
        raise DataError(f"{tree.describe('')}: no {_PREFIX}train.tar, {_PREFIX}train/ or train/: put one of them there")
    strange = {name.removesuffix(".tar") for name in (*tars, *folders)}.difference(kit.wnids)
    if strange:
        raise DataError(
            f"{where}: {min(strange)!a} is not a low-level synset of {kit.where}: remove it, or fetch the right kit"
        )
    classes: dict[str, list[ImageFile]] = {}
    for wnid in (each for each in kit.wnids if each in wanted):
        if f"{wnid}.tar" in tars:
            # The class's tar is the archive itself or a part of it.
            archive, within = tars[f"{wnid}.tar"]
            inner = f": {wnid}.tar" if archive.name != f"{wnid}.tar" else ""
            members = _members(tree, archive, within, inner)
            classes[wnid] = [_image(archive, each, f"{wnid}/{each.name.rpartition('/')[2]}", wnid) for each in members]
        elif wnid in folders:
            classes[wnid] = [
                ImageFile(each.path, f"{wnid}/{each.name}", wnid, each.version)
                for each in tree.entries(folders[wnid].path)
                if may_be_image(each)
            ]
    for number, wnid in enumerate(kit.wnids, start=1):
        if wnid in wanted and not classes.get(wnid):
            lacks = "has no image" if wnid in classes else f"has neither {wnid}.tar nor a folder there"
            raise DataError(f"{where}: class {wnid} (ILSVRC2012_ID {number}) {lacks}: add it, or fetch it again")
    return classes


def _archive(tree: Tree, split: str) -> Entry | None:
    """Finds the archive of a split by the start of its name, because test was published again with a date in it."""
    found = [
        each
        for each in tree.entries("")
        if each.name.endswith(".tar") and not each.is_folder and _is_of(split, each.name.removesuffix(".tar"))
    ]
    if len(found) > 1:
        raise DataError(f"{tree.describe('')}: both {found[0].name} and {found[1].name}: keep one of them there")
    return found[0] if found else None


def _folder(tree: Tree, split: str) -> str | None:
    """Finds the folder of a split, named like its unpacked archive or like the split."""
    folders = [entry.name for entry in tree.entries("") if entry.is_folder]
    named = [name for name in folders if _is_of(split, name) or name == split]
    return named[0] if named else None


def _is_of(split: str, name: str) -> bool:
    """Returns whether a name is that of a classification split; task 3, dog breeds, has its own images."""
    return name.startswith(f"{_PREFIX}{split}") and not name.endswith(_TASK_3)


def _members(tree: Tree, archive: Entry, within: Span | None = None, inner: str = "") -> list[Member]:
    where = f"{tree.describe(archive.path)}{inner}"
    with tree.reader(archive.path) as file:
        return list(index_tar(file, within or Span(0, archive.size), where))


def _image(archive: Entry, member: Member, name: str, class_name: str) -> ImageFile:
    path = path_in_archive(archive.path, member.span.offset, member.span.size, name)
    return ImageFile(path, name, class_name, archive.version)


def _val(tree: Tree, kit: DevelopmentKit) -> list[ImageFile]:
    where, files = tree.describe(""), _numbered(tree, "val")
    if not files:
        raise DataError(f"{where}: no {_PREFIX}val.tar, {_PREFIX}val/ or val/ with images: put one of them there")
    if len(files) != len(kit.val_ids):
        raise DataError(
            f"{where}: {len(files)} images of val, but the ground truth in {kit.where} has {len(kit.val_ids)} lines; "
            "fetch the incomplete one again"
        )
    known, labelled = set(kit.wnids), []
    for file, number in zip(files, kit.val_ids, strict=True):
        wnid = kit.wnids[number - 1]
        # Scripts sort val into class folders, and may be wrong.
        if file.class_name in known and file.class_name != wnid:
            raise DataError(f"{where}: {file.path} is in another class than the ground truth's, {wnid}: move it")
        labelled.append(replace(file, class_name=wnid))
    return labelled


def _numbered(tree: Tree, split: str) -> list[ImageFile]:
    """Lists a split's images in the order of their numbers, from 1 on without a gap, with their folder as class."""
    found, numbers = _split_files(tree, split), {}
    for file in found:
        number = re.fullmatch(rf"ILSVRC2012_{split}_(\d{{8}})\.JPEG", file.name)
        if number is None or int(number[1]) in numbers:
            problem = "occurs twice" if number else f"is not named like ILSVRC2012_{split}_00000001.JPEG"
            raise DataError(f"{tree.describe('')}: {file.path} {problem}: remove or rename it")
        numbers[int(number[1])] = file
    for expected in range(1, len(found) + 1):
        if expected not in numbers:
            missing = f"ILSVRC2012_{split}_{expected:08d}.JPEG"
            raise DataError(f"{tree.describe('')}: {missing} is missing, but {split} has later ones: fetch it again")
    return [numbers[number] for number in sorted(numbers)]


def _split_files(tree: Tree, split: str) -> list[ImageFile]:
    archive = _archive(tree, split)
    if archive is not None:
        members = [(PurePosixPath(member.name), member) for member in _members(tree, archive)]
        return [_image(archive, each, path.name, path.parent.name) for path, each in members]
    folder = _folder(tree, split)
    if folder is None:
        return []
    files = []
    for entry in tree.entries(folder):
        inside = tree.entries(entry.path) if entry.is_folder else (entry,)
        class_name = entry.name if entry.is_folder else NO_CLASS
        files += [ImageFile(each.path, each.name, class_name, each.version) for each in inside if may_be_image(each)]
    return files
