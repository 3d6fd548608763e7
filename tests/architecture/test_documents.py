"""The documents stay true: links lead somewhere, commands and modules that they name exist."""

import re
from pathlib import Path

import pytest
from folder_listing import entries

from orchestrator.cli.commands import VERBS

CHECKOUT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path.relative_to(CHECKOUT).as_posix() for path in (*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md"))
)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def _anchors(text):
    """The anchors that the common Markdown renderers give a document's headings."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def broken_links(document):
    """Relative links of `document` whose file or heading is absent."""
    found = []
    for link in _LINK.findall(document.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        if not (target.exists() and (not anchor or anchor in _anchors(target.read_text()))):
            found.append(link)
    return found


@pytest.mark.parametrize("document", DOCUMENTS)
def test_relative_links_of_document_exist(document):
    assert broken_links(CHECKOUT / document) == []


def test_broken_link_and_anchor_are_reported(tmp_path):
    document = tmp_path / "a.md"
    document.write_text("# Here it is\n[x](#here-it-is) [y](#gone) [z](b.md) [w](https://example.org)\n")
    assert broken_links(document) == ["#gone", "b.md"]


def test_make_targets_named_in_documents_exist():
    makefile = (CHECKOUT / "Makefile").read_text()
    targets = set(re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)) | {".venv"}
    named = {name for path in DOCUMENTS for name in re.findall(r"`make ([\w.-]+)", (CHECKOUT / path).read_text())}
    assert named >= {"quickstart", "test"}
    assert named <= targets


def test_verbs_named_in_readme_exist():
    named = set(re.findall(r"septet ([a-z]+)", (CHECKOUT / "README.md").read_text()))
    assert "launch" in named
    assert named <= set(VERBS)


def test_modules_named_in_architecture_exist():
    text = (CHECKOUT / "docs" / "architecture.md").read_text()
    for name in re.findall(r"\b((?:workers|orchestrator)/[\w/]+\.py)\b", text):
        assert (CHECKOUT / name).is_file(), name
    for room, stems in re.findall(r"\b((?:workers|orchestrator)(?:/\w+)*)/\{([\w,]+)\}\.py", text):
        for stem in stems.split(","):
            assert (CHECKOUT / room / f"{stem}.py").is_file(), f"{room}/{stem}.py"


def listed_tree(page):
    """Reads the entries of each folder from the fenced block below "## The tree"; folders end in a slash.

    A line is an entry's name, two spaces or more, and what it is; entries of a folder are indented by two spaces more.
    """
    (section,) = re.findall(r"^## The tree\n(.*?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL)
    (block,) = re.findall(r"^```\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    found: dict[str, set[str]] = {}
    above: list[str] = []
    for line in block.splitlines():
        told = re.fullmatch(r"((?:  )*)([\w.]+/?)(?: {2,}(\S.*))?", line)
        assert told, f"not an entry of the tree: {line!r}"
        depth = len(told[1]) // 2
        assert told[3] or not depth, f"an entry without a word on what it is: {line!r}"
        if depth:
            found.setdefault("".join(above[:depth]), set()).add(told[2])
        above = [*above[:depth], told[2]]
    return found


def test_tree_of_the_architecture_page_is_the_one_on_disk():
    listed = listed_tree((CHECKOUT / "docs" / "architecture.md").read_text())
    assert set(listed) >= {"orchestrator/", "workers/"}
    assert listed == {folder: entries(CHECKOUT / folder) for folder in listed}


def test_tree_is_read_with_its_folders():
    tree = "shop/\n  till/     money\n    coin.py  metal\n  door.py  way in\nyard/\n"
    page = f"# Page\n\n## The tree\n\nRooms:\n\n```\n{tree}```\n## Laws\n```\nno tree\n```\n"
    assert listed_tree(page) == {"shop/": {"till/", "door.py"}, "shop/till/": {"coin.py"}}


def test_tests_named_in_documents_exist():
    named = {name for path in DOCUMENTS for name in re.findall(r"`(tests/[\w/*]+\.py)`", (CHECKOUT / path).read_text())}
    assert "tests/faults/test_fence.py" in named
    assert [name for name in sorted(named) if not list(CHECKOUT.glob(name))] == []
