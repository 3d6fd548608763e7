"""Files of this machine and of object stores, listed and read alike; what is said when a store does not answer."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from listed import folder
from pictures import write_tree

from workers.data.decoding import BadImage
from workers.data.sources import open_listing
from workers.data.sources.files import FileListing, PlainFiles
from workers.data.sources.listing import unwatched
from workers.data.sources.tree import RemoteTree, open_root, tree_at, walk
from workers.data.store.preparation import store_key
from workers.data.survey import survey
from workers.errors import DataError
from workers.settings import DatasetSettings, OnBad

Upload = Callable[[Path, str], str]


@pytest.fixture
def memory(tmp_path):
    """A place in fsspec's store in memory."""
    name = f"/{tmp_path.name}"
    yield f"memory:/{name}"
    system = fsspec.filesystem("memory")
    if system.exists(name):
        system.rm(name, recursive=True)


FILES = {"a/2.png": b"two", "a/10.png": b"ten", "a/.hidden": b"x", "b/c/d.txt": b"deep", "top.csv": b"\xef\xbb\xbfid\n"}


@pytest.fixture(params=["local", "memory", "s3"])
def tree(request, tmp_path):
    root = write_tree(tmp_path / "here", FILES)
    if request.param == "local":
        return tree_at(str(root))
    if request.param == "s3":
        return tree_at(request.getfixturevalue("to_s3")(root, "x") + "/")
    url = request.getfixturevalue("memory")
    for name, content in FILES.items():
        fsspec.filesystem("memory").pipe_file(f"{url}/{name}", content)
    return tree_at(url)


@pytest.mark.slow
def test_every_kind_of_tree_answers_alike(tree):
    assert [(each.name, each.path, each.is_folder) for each in tree.entries("")] == [
        ("a", "a", True),
        ("b", "b", True),
        ("top.csv", "top.csv", False),
    ]
    assert [(each.path, each.size) for each in tree.entries("a")] == [("a/10.png", 3), ("a/2.png", 3)]
    assert [each.path for each in walk(tree, "")] == ["a/10.png", "a/2.png", "b/c/d.txt", "top.csv"]
    assert tree.read("a/10.png") == b"ten"
    assert tree.read_range("b/c/d.txt", 1, 2) == b"ee"
    assert tree.read_range("b/c/d.txt", 2, 100) == b"ep"
    found = tree.find("a/2.png")
    assert found is not None and not found.is_folder
    assert (found.name, found.path, found.size) == ("2.png", "a/2.png", 3)
    assert tree.find("b") is not None and tree.find("b/c/nothing") is None
    with tree.reader("b/c/d.txt") as file:
        file.seek(2)
        assert file.read() == b"ep"


def test_every_kind_of_tree_refuses_alike(tree):
    with pytest.raises(BadImage):
        tree.read("a/gone.png")
    with pytest.raises(DataError, match="nowhere: cannot be listed"):
        tree.entries("nowhere")


def test_links_in_a_circle_are_told_and_not_followed_for_ever(tmp_path):
    (tmp_path / "loop.png").symlink_to("loop.png")
    tree = tree_at(str(tmp_path))
    assert [(each.path, each.is_folder) for each in tree.entries("")] == [("loop.png", False)]
    with pytest.raises(BadImage):
        tree.read("loop.png")
    for name in ("a", "b"):
        (tmp_path / name).symlink_to(".")
    with pytest.raises(DataError, match="a link may lead in a circle"):
        list(walk(tree, ""))


def test_bucket_can_be_the_root_and_folder_marks_are_no_files(to_s3, small_folder, tmp_path):
    import s3fs

    bucket, _, prefix = to_s3(small_folder, "m").removeprefix("s3://").partition("/")
    system = s3fs.S3FileSystem()
    for mark in ("train/", "train/a/", "val/b/"):
        system.call_s3("put_object", Bucket=bucket, Key=f"{prefix}/{mark}", Body=b"")
    inside = tree_at(f"s3://{bucket}")
    assert tmp_path.name in [entry.name for entry in inside.entries("") if entry.is_folder]
    assert open_root(DatasetSettings(root=f"s3://{bucket}/")).find(prefix) is not None
    settings = DatasetSettings(root=f"s3://{bucket}/{prefix}", size=8)
    assert survey(settings) == survey(replace(settings, root=str(small_folder)))


def test_version_and_key_change_with_the_content_alone(to_s3, small_folder, tmp_path):
    settings = DatasetSettings(root=to_s3(small_folder, "f"), size=8)
    keys = {store_key(settings, open_listing(settings)) for _ in range(2)}
    assert len({*keys, store_key(settings, open_listing(folder(small_folder)))}) == 2
    tree = tree_at(to_s3(write_tree(tmp_path / "one", {"x.png": b"abc"}), "v"))
    before = tree.entries("")
    assert tree.entries("") == before
    to_s3(write_tree(tmp_path / "one", {"x.png": b"abd"}), "v")
    assert tree.entries("")[0].size == before[0].size
    assert tree.entries("")[0].version != before[0].version


@pytest.mark.slow
def test_dead_store_is_told_without_secrets(to_s3, small_folder, monkeypatch):
    settings = DatasetSettings(root=to_s3(small_folder, "g"), size=8)
    listing = open_listing(settings)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(DataError, match="cannot be read") as caught:
        survey(settings)
    said = str(caught.value)
    assert said.startswith(str(settings.root)) and "credentials in the environment" in said and "\n" not in said
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in said
    fsspec.filesystem("s3").clear_instance_cache()
    assert listing.rows(unwatched).splits["test"]


class _Outage:
    """A store that lists what it holds and then breaks down."""

    def __init__(self, inner: object) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def cat_file(self, path: str, **bounds: int) -> bytes:
        raise ConnectionResetError(104, "Connection reset by peer")


def test_outage_while_reading_never_passes_for_a_bad_image(memory, small_folder):
    fsspec.filesystem("memory").put(str(small_folder), memory, recursive=True)
    settings = DatasetSettings(root=memory, size=8, on_bad=OnBad.skip)
    listing = open_listing(settings)
    assert isinstance(listing, FileListing) and isinstance(listing.contents, PlainFiles)
    tree = listing.contents.tree
    assert isinstance(tree, RemoteTree)
    broken = replace(listing, contents=PlainFiles(replace(tree, system=_Outage(tree.system))))
    with pytest.raises(DataError, match="Connection reset by peer"):
        broken.rows(unwatched)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://no-such-bucket/x", "s3://no-such-bucket/x: no such folder"),
        ("nonsense://x/y", "nonsense://x/y: Protocol not known"),
        ("zip://inside::file://{tmp}/x", "^zip://.*: cannot be read"),
        ("tar://inside::file://{tmp}/x", "^tar://.*: cannot be read"),
    ],
)
def test_place_that_is_not_there_is_named(to_s3, tmp_path, url, expected):
    (tmp_path / "x").write_bytes(b"no archive" * 100)
    with pytest.raises(DataError, match=expected):
        open_root(DatasetSettings(root=url.format(tmp=tmp_path)))


def test_missing_driver_names_the_extra_that_brings_it(monkeypatch):
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(DataError, match=r"pip install 'septet\[s3\]'"):
        open_root(DatasetSettings(root="s3://bucket/x"))


def test_name_that_would_break_a_line_is_refused_in_a_store_too(memory):
    fsspec.filesystem("memory").pipe_file(f"{memory}/two\nlines.png", b"x")
    with pytest.raises(DataError, match="rename it"):
        tree_at(memory).entries("")
