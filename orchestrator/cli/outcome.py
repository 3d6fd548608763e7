"""Says what a launch or a new submission has made, and where it lies."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.outputs import Results


def outcome_lines(results: "Results") -> Iterator[str]:
    """Yields the table, then the paths of submission and report."""
    yield results.table_text.rstrip("\n")
    yield ""
    if results.submission is not None:
        yield f"submission  {near(results.submission)}"
    if results.digests is not None:
        yield f"digest      {results.digests.manifest_sha256} (sha256 of the submission's manifest.json)"
    for page in results.files:
        if page.suffix == ".html":
            yield f"{page.stem.replace('index', 'report'):12}{near(page)}"


def near(path: Path) -> Path:
    """Returns the path relative to the working directory if it is inside, else the absolute path."""
    here = Path.cwd()
    # At the root, as in a Ray job, every path would be inside.
    return path.relative_to(here) if path.is_relative_to(here) and here != here.parent else path
