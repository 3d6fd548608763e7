"""The Python example of README.md runs as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_python_example_of_the_readme_trains_verifies_and_explains(tmp_path):
    (example,) = re.findall(r"^```python\n(.*?)^```$", (CHECKOUT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(CHECKOUT)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "verified: True" in done.stdout
    assert len(re.findall(r"^seed-\d done \d", done.stdout, re.MULTILINE)) == 2
    assert done.stdout.splitlines()[-1].endswith("{'seed-0': 0.5, 'seed-1': 0.5}")
