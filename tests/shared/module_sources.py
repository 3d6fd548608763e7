"""The sources that the tests of the architecture read."""

from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGES = ("orchestrator", "workers")


def sources() -> dict[str, str]:
    """Reads every module of the two packages, by its path relative to the checkout."""
    paths = sorted(path for package in PACKAGES for path in (CHECKOUT / package).rglob("*.py"))
    assert len(paths) > 100, "the walk finds no modules: it would call anything lawful"
    return {path.relative_to(CHECKOUT).as_posix(): path.read_text() for path in paths}
