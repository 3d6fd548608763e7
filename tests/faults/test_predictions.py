"""Members' predictions that are partial, no numbers, permuted, doubled, short of rows or of other classes.

Each is refused by `septet submit` with the exit code and the line that say so, the last submission stays as it was,
and nothing is left behind.
"""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.cli.program import main
from orchestrator.config.composition import compose
from orchestrator.config.schema import CombineConfig, SubmissionConfig
from orchestrator.outputs import write_results
from orchestrator.report import plots
from orchestrator.run.digests import open_book
from orchestrator.run.holder import is_locked
from orchestrator.run.paths import RunPaths
from workers.storage import atomic
from workers.storage.atomic import sha256_of

_spec = importlib.util.spec_from_file_location(
    "finished_run", Path(__file__).parents[1] / "orchestrator" / "conftest.py"
)
assert _spec is not None and _spec.loader is not None
finished_run: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(finished_run)


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch):
    """Drawing takes a second a report."""
    monkeypatch.setattr(plots, "learning_curves", lambda *_: b"png")
    monkeypatch.setattr(plots, "member_errors", lambda *_: b"png")


@pytest.fixture
def paths(tmp_path):
    """A finished run whose predictions are recorded, and its submission."""
    run = finished_run.build_run(tmp_path / "run")
    found: RunPaths = run.paths
    atomic.write_text(found.config_yaml, compose([]).yaml)
    write_results(found, run.plan, CombineConfig(), SubmissionConfig())
    return found


def array(paths: RunPaths) -> Path:
    return paths.predictions("base2") / "test.npy"


def change(paths: RunPaths, alter: Callable[[np.ndarray], np.ndarray], *, described: bool = True) -> None:
    """Alters one member's probabilities; `described`: with a manifest that fits them, as their writer would leave."""
    before = np.load(array(paths))
    after = alter(before.copy())
    np.save(array(paths), after)
    if described:
        amend(paths, sha256=sha256_of(array(paths)), num_rows=len(after), num_classes=after.shape[1])
    assert sha256_of(array(paths)) != open_book(paths).committed.of_predictions("base2", "test"), "nothing was altered"


def amend(paths: RunPaths, **values: Any) -> None:
    about = array(paths).with_suffix(".json")
    atomic.write_json(about, json.loads(about.read_text()) | values)


def put(row: int, column: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def alter(rows: np.ndarray) -> np.ndarray:
        rows[row, column] = value
        return rows

    return alter


def doubled(rows: np.ndarray) -> np.ndarray:
    rows[8] = rows[7]
    return rows


def cut(paths: RunPaths) -> None:
    array(paths).write_bytes(array(paths).read_bytes()[:-100])


def reorder_classes(paths: RunPaths) -> None:
    names = (paths.data / "classes.txt").read_text().splitlines(keepends=True)
    (paths.data / "classes.txt").write_text("".join(names[::-1]))


def require_refused(paths: RunPaths, code: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Submits: the code, one line that says why, the old submission to the byte, nothing left behind."""
    before = {path.name: path.read_bytes() for path in paths.submission.iterdir()}
    assert main(["submit", str(paths.root), "combine=geometric"]) == code
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert {path.name: path.read_bytes() for path in paths.submission.iterdir()} == before
    assert not is_locked(paths) and not list(paths.root.rglob(f"{atomic.TEMPORARY_PREFIX}*"))


FAULTS: dict[str, tuple[Callable[[RunPaths], Any], int, str]] = {
    "half written": (lambda paths: array(paths).with_suffix(".json").unlink(), 4, "base2: no predictions of test"),
    "absent": (lambda paths: array(paths).unlink(), 4, "base2: no predictions of test"),
    "cut short": (cut, 8, "not a whole .npy"),
    "a NaN": (lambda paths: change(paths, put(11, 0, np.nan)), 8, "11 (test_011.png)"),
    "an infinity": (lambda paths: change(paths, put(12, 0, np.inf)), 8, "12 (test_012.png)"),
    "a sum of 1.5": (lambda paths: change(paths, lambda rows: np.float32(1.5) * rows), 8, "0 (test_000.png), 1 ("),
    "below 0": (lambda paths: change(paths, put(13, 1, -0.5)), 8, "13 (test_013.png)"),
    "rows missing": (lambda paths: change(paths, lambda rows: rows[:-2]), 8, "78 (test_078.png), 79 (test_079.png)"),
    "rows too many": (lambda paths: change(paths, lambda rows: np.concatenate([rows, rows[:1]])), 8, "(81, 12)"),
    "a class missing": (lambda paths: change(paths, lambda rows: rows[:, :-1]), 8, "(80, 11), not float32 (80, 12)"),
    "a damaged bit": (lambda paths: change(paths, lambda rows: rows[::-1], described=False), 8, "sha256"),
    "permuted": (lambda paths: change(paths, lambda rows: np.roll(rows, 1, axis=0)), 8, "altered since it was comm"),
    "a row doubled": (lambda paths: change(paths, doubled), 8, "altered since it was committed"),
    "classes permuted": (lambda paths: change(paths, lambda rows: rows[:, ::-1].copy()), 8, "altered since it was co"),
    "of other images": (lambda paths: amend(paths, rows_sha256="e" * 64), 8, "of other images than data/test.rows.txt"),
    "of other pixels": (lambda paths: amend(paths, data_digest="e" * 64), 8, "content is not that of data/"),
    "of another net": (lambda paths: amend(paths, checkpoint_sha256="e" * 64), 8, "of another checkpoint"),
    "another class list": (reorder_classes, 8, "classes.txt was altered"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_predictions_leave_the_last_submission(paths, fault, capsys):
    inject, code, words = FAULTS[fault]
    inject(paths)
    require_refused(paths, code, words, capsys)


def test_template_of_other_classes_is_refused(paths, tmp_path, capsys):
    names = (paths.data / "classes.txt").read_text().split()
    template = tmp_path / "sample.csv"
    rows = (paths.data / "test.rows.txt").read_text().split()
    template.write_text(",".join(["id", *names[:-1], "heron"]) + "\n" + "".join(f"{row},0\n" for row in rows))

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in paths.root.rglob("*") if path.is_file() and path != paths.lock}

    before = files()
    assert main(["submit", str(paths.root), "submission=probabilities", f"submission.template={template}"]) == 2
    said = capsys.readouterr().err
    assert "heron" in said and names[-1] in said
    assert files() == before
