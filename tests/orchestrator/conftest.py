"""Fixtures that need a finished run."""

import pytest
from whole_run import build_run

from orchestrator.report import summary, write


@pytest.fixture(scope="session")
def make_run():
    """`build_run`, for tests to call with the run they need."""
    return build_run


@pytest.fixture(scope="module")
def no_drawing():
    """Drawing takes a second a report; report/ has the tests of it."""
    with pytest.MonkeyPatch.context() as patch:
        words = (summary.headline, summary.tables, summary.worth, summary.members, summary.again)
        patch.setattr(write, "PARTS", words)
        yield
