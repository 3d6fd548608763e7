"""Which images a person means by files, folders, patterns and lists, here and in a store; wrong ones are named."""

from pathlib import Path

import fsspec
import pytest

from workers.data.named import find_images, read_image
from workers.errors import DataError

FILES = ("b.JPG", "a/z.png", "a/y.HEIC", "a/x.tif", "a/notes.txt", "a/deep/er/w.png", ".hidden.png", "odd.dat")
# An image may have no extension, as in a dataset.
FILES += ("a/deep/0af3", "README", "__MACOSX/c.png", "a/._z.png")
IMAGES = ["a/deep/0af3", "a/deep/er/w.png", "a/x.tif", "a/y.HEIC", "a/z.png", "b.JPG"]


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path):
    """A folder of files of which each holds its own name."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(name)
    if request.param == "local":
        yield str(tmp_path)
        return
    system, url = fsspec.filesystem("memory"), f"memory://{tmp_path}"
    for name in FILES:
        system.pipe_file(f"{url}/{name}", name.encode())
    yield url
    system.rm(str(tmp_path), recursive=True)


def _below(found, root):
    assert all(name.startswith(f"{root}/") for name in found)
    return [name.removeprefix(f"{root}/") for name in found]


def _write(root, name, text):
    with fsspec.open(f"{root}/{name}", "w") as file:
        file.write(text)
    return f"{root}/{name}"


def test_images_of_a_folder_are_found_at_any_depth_in_order_and_other_files_left_out(root):
    found = find_images([root])
    assert _below(found, root) == IMAGES
    assert [read_image(name, Path("/nowhere")).decode() for name in found] == IMAGES


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("a/*.png", ["a/z.png"]),
        ("**/*.png", ["a/deep/er/w.png", "a/z.png"]),
        ("a/**", [name for name in IMAGES if name.startswith("a/")]),
        ("[ab]*", ["b.JPG"]),
        ("?/x.*", ["a/x.tif"]),
    ],
)
def test_pattern_means_the_files_that_match_it(root, pattern, wanted):
    assert _below(find_images([f"{root}/{pattern}"]), root) == wanted


def test_file_that_has_a_patterns_letters_in_its_name_is_that_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a[1].png", "a1.png"):
        Path(name).touch()
    assert find_images(["a[1].png", "./a1.png"]) == ["a[1].png", "a1.png"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", "label,path\n0,a/z.png\n1,b.JPG\n"),
        ("list.csv", "id\tnote\na/z.png\tx\nb.JPG\ty\n"),
        ("list.csv", "photo;note\na/z.png;x\nb.JPG;y\n"),
        ("list.txt", "a/z.png\r\n\r\nb.JPG\n"),
    ],
)
def test_list_means_the_files_that_it_names_in_its_order(root, name, text):
    found = find_images([_write(root, name, text)])
    assert _below(found, root) == ["a/z.png", "b.JPG"]


def test_list_may_hold_whole_paths_and_its_first_must_be_there(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("lists")
    listed = _write(elsewhere, "list.txt", f"{root}/a/z.png\n{root}/b.JPG\n")
    assert _below(find_images([listed]), root) == ["a/z.png", "b.JPG"]
    with pytest.raises(DataError, match=r"list\.txt: there is no .*a/z\.png; write paths below the list's folder"):
        find_images([_write(elsewhere, "list.txt", "a/z.png\n")])


def test_list_without_a_header_is_refused_since_its_first_image_would_be_lost(root):
    with pytest.raises(DataError, match=r"list\.csv: line 1 is an image, not a header"):
        find_images([_write(root, "list.csv", "a/z.png,1\nb.JPG,2\n")])
    with pytest.raises(DataError, match=r"list\.csv: line 1 is an image, not a header"):
        find_images([_write(root, "list.csv", "a/deep/0af3,1\nb.JPG,2\n")])


def test_line_of_a_list_without_a_path_is_refused(root):
    with pytest.raises(DataError, match=r"list\.csv: line 3 has no path"):
        find_images([_write(root, "list.csv", "path,label\na/z.png,1\n,2\nb.JPG,3\n")])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("absent.jpg", "no such image file or folder"),
        ("empty", "no image there"),
        ("*.webp", "no image there"),
        ("absent/*.png", "cannot be listed"),
        ("empty.txt", "empty file"),
        ("blank.txt", "no image there"),
        ("empty.csv", "empty file"),
        ("s9://bucket/x/", "s9"),
    ],
)
def test_images_that_are_not_there_are_a_data_error_that_names_them(given, said, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty.txt", "empty.csv"):
        (tmp_path / name).touch()
    (tmp_path / "blank.txt").write_text("\n \n")
    word = given if "://" in given else str(tmp_path / given)
    with pytest.raises(DataError, match=given.partition("/")[0].replace("*", r"\*")) as error:
        find_images([word])
    assert said in str(error.value) and "\n" not in str(error.value)


def test_images_of_a_store_that_answers_over_http_are_found_and_read(tmp_path, to_s3):
    for name in IMAGES:
        (tmp_path / "here" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "here" / name).write_text(name)
    (tmp_path / "here" / "list.csv").write_text("path\na/z.png\nb.JPG\n")
    url = to_s3(tmp_path / "here", "x")
    assert _below(find_images([f"{url}/"]), url) == IMAGES
    assert _below(find_images([f"{url}/**/*.png", f"{url}/list.csv"]), url) == [
        "a/deep/er/w.png",
        "a/z.png",
        "a/z.png",
        "b.JPG",
    ]
    assert [read_image(name, Path("/nowhere")).decode() for name in find_images([url])] == IMAGES
