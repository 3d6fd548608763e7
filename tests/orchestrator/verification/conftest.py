"""A finished run that each test may alter."""

import shutil
from dataclasses import replace

import pytest
from whole_run import commit

from orchestrator.config.composition import compose
from orchestrator.config.schema import CombineConfig, SubmissionConfig
from orchestrator.run.paths import RunPaths
from workers.storage import atomic


@pytest.fixture(scope="module")
def whole(no_drawing, make_run, tmp_path_factory):
    """A finished run, made once: each test has a copy."""
    run = make_run(tmp_path_factory.mktemp("whole") / "run")
    atomic.write_text(run.paths.config_yaml, compose([]).yaml)
    commit(run, CombineConfig(), SubmissionConfig())
    return run


@pytest.fixture
def run(whole, tmp_path):
    shutil.copytree(whole.paths.root, tmp_path / "run")
    return replace(whole, paths=RunPaths(tmp_path / "run"))
