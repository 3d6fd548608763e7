"""Fixtures that need a finished run."""

import pytest
from whole_run import build_run

from orchestrator.report import summary, worth, write
from orchestrator.report.figures import Drawing


@pytest.fixture(scope="session")
def make_run():
    """`build_run`, for tests to call with the run they need."""
    return build_run


@pytest.fixture(scope="module")
def no_drawing():
    """Drawing takes a second a report; report/ has the tests of it."""
    nothing = Drawing("nothing", "nothing", "", "<svg></svg>", b"svg", b"png")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("lines_chart", "pairs_chart"):
            patch.setattr(worth, name, lambda *_: nothing)
        words = (summary.headline, summary.tables, worth.number, worth.disagreement, summary.members)
        patch.setattr(write, "PARTS", (*words, summary.again))
        yield
