"""Makes `<version>.tar.gz` here: a small finished run as this release leaves it, for every later one to read.

`python tests/releases/make_run.py` in the release's own environment, once a release.
"""

import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "shared"))
from pictures import write_tree  # noqa: E402

# Stands for the folder that the run was made in.
PLACE = "/the/place"
MOVED = ("run/run.json", "run/config.yaml")
NET = ("input_size=16", "width=0.03", "fc_units=8", "conv1_kernel=3", "conv1_stride=1", "conv1_padding=1")
LAUNCH = (
    *("run_dir=run", "datasets.store=stores", "tracking.uri=sqlite:///mlflow.db", "ensemble=pair", "precision=fp32"),
    *("optimizer.batch_size=8", "cluster.cpus_per_member=1", "checkpoint_updates=2", "schedule.epochs=4"),
    *(f"model.{setting}" for setting in NET),
    *(
        word
        for name in ("target", "superset")
        for word in (
            *(f"dataset@datasets.{name}=folder", f"datasets.{name}.root=images", f"datasets.{name}.size=20"),
            *(f"datasets.{name}.val_fraction=0.3", f"datasets.{name}.dev_fraction=0.2"),
        )
    ),
)


def write_images(place: Path) -> None:
    """The images of the run: three classes of eight, and four to predict."""
    classes = {f"train/{name}/{i}.png": 100 * n + i for n, name in enumerate(("ant", "bee", "cat")) for i in range(8)}
    write_tree(place / "images", classes | {f"test/t{index}.png": 900 + index for index in range(4)}, side=12)


def septet(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator.cli.program", *words]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve()
        write_images(place)
        launched = septet(place, "launch", *LAUNCH)
        assert launched.returncode == 0, launched.stderr
        predicted = json.loads(septet(place, "predict", "run", "images/test", "--json").stdout)
        for name in MOVED:
            (place / name).write_text((place / name).read_text().replace(str(place), PLACE))
        (place / "predicted.json").write_text(json.dumps(predicted, indent=1) + "\n")
        target = Path(json.loads((place / "run/run.json").read_text())["stores"]["target"]).name
        for page in ("run/.lock", "run/report/index.html"):
            (place / page).unlink()
        shutil.rmtree(place / "run/report/figures")
        with tarfile.open(HERE / f"{metadata.version('septet')}.tar.gz", "w:gz") as archive:
            for name in ("run", f"stores/{target}", "predicted.json"):
                archive.add(place / name, name)


if __name__ == "__main__":
    main()
