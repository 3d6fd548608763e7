"""A finished run in Python: what it says is what the command line and the report say; the notebook runs."""

import io
import json
import runpy
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from noise_run import predicted
from PIL import Image

import septet
from orchestrator.plan.model import StageRef
from workers.errors import ConfigError, DataError

NOTEBOOK = Path(__file__).resolve().parents[3] / "docs" / "notebook.ipynb"


@pytest.fixture(scope="module")
def loaded(run):
    return septet.load(str(run.root))


def test_images_of_every_kind_are_predicted_as_septet_predict_does(run, images, loaded):
    files = sorted((images / "test").iterdir())
    wanted = [one.to_json() for one in predicted(run, files)]
    with Image.open(files[2]) as opened:
        picture = opened.copy()
    given = [str(files[0]), files[1].read_bytes(), picture, np.asarray(Image.open(files[3])), files[4]]
    found = loaded.predict(given, top=2)
    assert [json.loads(json.dumps(one)) for one in found["top"]] == [one["top"] for one in wanted]
    assert list(found["path"]) == [str(files[0]), "image 1", "image 2", "image 3", str(files[4])]
    assert list(found["class"]) == [one["top"][0]["class"] for one in wanted]
    assert list(found["entropy"]) == [one["entropy"] for one in wanted]
    assert len(loaded.predict([])) == 0


def test_a_turned_picture_is_predicted_as_its_file(loaded, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(7).integers(0, 256, (20, 25, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as picture:
        file, given, unturned = loaded.predict([tmp_path / "a.png", picture, pixels])["top"]
    assert file == given != unturned


def test_bad_images_are_a_data_error_that_names_them(loaded):
    with pytest.raises(DataError, match="image 0: cannot be read"):
        loaded.predict([b"no image"])
    with pytest.raises(DataError, match=r"absent\.jpg"):
        loaded.predict(["absent.jpg"])
    with pytest.raises(DataError, match=r"image 0: .* float64 \(20, 20, 3\); give uint8"):
        loaded.predict([np.zeros((20, 20, 3))])
    for shape in ((20,), (3, 20, 20), (20, 20, 1), (1, 20, 20, 3)):
        with pytest.raises(DataError, match=r"give uint8 \(height, width, 3\)"):
            loaded.predict([np.zeros(shape, np.uint8)])
    content = io.BytesIO()
    Image.effect_noise((300, 300), 99).save(content, "PNG")
    with pytest.raises(DataError, match=r"image 0: .* truncated"):
        loaded.predict([Image.open(io.BytesIO(content.getvalue()[:5000]))])


def test_tables_are_those_of_manifest_and_report(run, loaded):
    manifest, scores = (json.loads(path.read_text()) for path in (run.submission_manifest, run.report_scores))
    members, table = loaded.members, loaded.table.set_index("name")
    assert list(members["name"]) == [one["name"] for one in manifest["members"]]
    assert list(members["weight"]) == [0.5, 0.5]
    assert dict(zip(members["name"], members["nll"], strict=True)) == {
        name: one["nll"] for name, one in scores["members"].items()
    }
    assert table.loc["ensemble", "top1_error"] == scores["ensemble"]["top1_error"]
    assert list(table.index) == [*(row["name"] for row in scores["rows"]), "ensemble"]
    curves = loaded.curves
    lines = [json.loads(line) for line in run.metrics(StageRef("a", "train")).read_text().splitlines()]
    own = curves[(curves["member"] == "a") & (curves["stage"] == "train")]
    assert list(own["step"]) == [line["step"] for line in lines]
    assert own["val/top1_error"].dropna().iloc[-1] == lines[-1]["metrics"]["val/top1_error"]


def test_figure_is_the_reports_drawing_and_an_unknown_one_names_those_there_are(run, loaded):
    drawing = loaded.figure("reliability")
    assert drawing._repr_svg_() == run.figure("reliability", "svg").read_text(encoding="utf-8")
    assert drawing.lstrip().startswith("<?xml") and "</svg>" in drawing
    with pytest.raises(DataError, match=r"reliabilty: .* reliability"):
        loaded.figure("reliabilty")


def test_notebook_runs_from_above_to_below(run, images, monkeypatch, tmp_path):
    mpl.use("agg")
    document = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert document["nbformat"] == 4
    cells = [cell for cell in document["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 5 and all(not cell["outputs"] and cell["execution_count"] is None for cell in cells)
    monkeypatch.setenv("SEPTET_RUN", str(run.root))
    monkeypatch.setenv("SEPTET_IMAGES", str(images / "test"))
    (tmp_path / "cells.py").write_text("\n".join("".join(cell["source"]) for cell in cells))
    assert len(runpy.run_path(str(tmp_path / "cells.py"))["found"]) == 5


def test_an_image_alone_is_a_list_of_one(images, loaded):
    file = images / "test" / "0.png"
    pixels = np.asarray(Image.open(file))
    wanted = loaded.predict([file])["top"][0]
    for alone in (file, str(file), file.read_bytes(), pixels, pixels[None]):
        (found,) = loaded.predict(alone)["top"]
        assert found == wanted


def test_no_classes_are_refused_and_a_run_may_lie_in_a_home_folder(run, images, loaded, monkeypatch):
    with pytest.raises(ConfigError, match="top=0: give 1 or more"):
        loaded.predict([images / "test" / "0.png"], top=0)
    monkeypatch.setenv("HOME", str(run.root.parent))
    assert len(septet.load(f"~/{run.root.name}").members) == 2
    with pytest.raises(DataError, match="no user with that home folder"):
        septet.load("~nosuchuser/run")
