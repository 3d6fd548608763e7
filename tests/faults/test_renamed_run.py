"""A run directory that is renamed while its launch runs: no second one appears, and it resumes under its new name."""

import pytest
from oracle import expect_line
from run_artefacts import artefacts

from orchestrator.run.paths import RunPaths

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]


def test_run_renamed_while_members_train_leaves_no_second_directory(undisturbed, new_place, family):
    place = new_place("renamed", in_process=True)
    process = place.start(moment="training 2")
    new = place.paths.root.rename(place.root / "new")
    place.let_go()
    expect_line(place.ended(process), 7, f"{place.paths.root}", "was renamed or deleted while it was in use")
    assert not place.paths.root.exists()
    resumed = place.launch(f"run_dir={new}")
    assert resumed.code == 0, resumed.err
    assert not place.paths.root.exists()
    assert artefacts(RunPaths(new)) == artefacts(undisturbed.paths)
