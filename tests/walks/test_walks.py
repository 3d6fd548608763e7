"""Newcomers' walks, each a script: from the files that they have to a submission, or to the line that leads there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]
WALKS = Path(__file__).parent


@pytest.mark.parametrize("walk", sorted(each.stem for each in WALKS.glob("[0-9]*.sh")))
def test_walk_ends_in_a_verified_submission(walk, real_images, tmp_path):
    environment = {
        **os.environ,
        "IMAGES": str(real_images),
        "WALKS": str(WALKS),
        "PYTHON": sys.executable,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(WALKS.parents[1]),
    }
    (tmp_path / "here").mkdir()
    script = f'. "$WALKS/steps.sh"\n{(WALKS / f"{walk}.sh").read_text()}'
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path / "here", env=environment, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
