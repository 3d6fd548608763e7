"""`septet export`: the folder predicts what `septet predict` does, without Septet; what no graph holds is refused."""

import io
import json
import os
import runpy
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from whole_run import build_run

from orchestrator.cli.program import main
from orchestrator.combine.averaging import Combination, Stacking, combine_block
from orchestrator.combine.calibration import Calibration, corrected
from orchestrator.config.schema import Calibrator, CombineMethod
from orchestrator.finished import exporting
from orchestrator.finished.ensemble import LoadedEnsemble
from orchestrator.finished.exporting import export, parse_forms
from workers.data.decoding import Rules
from workers.errors import ConfigError, MemberFailed
from workers.export.graph import EnsembleGraph
from workers.export.standalone import Ensemble, _read
from workers.settings.dataset import Exif, Keep
from workers.settings.training import Crops


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "ensemble"
    export(run, out, exporting.FORMS)
    return out


@pytest.fixture(scope="module")
def ensembles(folder):
    return {engine: _standalone(folder, engine) for engine in ("torch", "onnx")}


def _standalone(folder, engine=""):
    return runpy.run_path(str(folder / "predict.py"))["Ensemble"](folder, engine)


def _encoded(pixels, kind, mode="RGB", **options):
    content = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(content, kind, **options)
    return content.getvalue()


def _odd_images():
    """Files that differ from a plain square in one way each: large, turned, grey, transparent, deep, long."""
    pixels = np.random.default_rng(5).integers(0, 256, (67, 93, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(pixels).resize((931, 677)))
    turned = Image.Exif()
    turned[0x0112] = 6
    deep = io.BytesIO()
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(deep, "PNG")
    return {
        "large JPEG": _encoded(smooth, "JPEG"),
        "turned JPEG": _encoded(smooth, "JPEG", exif=turned),
        # Half of it, as it is decoded, would be scaled to one column more.
        "long JPEG": _encoded(np.asarray(Image.fromarray(smooth).resize((347, 100))), "JPEG"),
        "long turned JPEG": _encoded(np.asarray(Image.fromarray(smooth).resize((347, 100))), "JPEG", exif=turned),
        "turned TIFF": _encoded(pixels, "TIFF", exif=turned),
        "turned PNG": _encoded(pixels, "PNG", exif=turned),
        "grey JPEG": _encoded(smooth, "JPEG", "L"),
        "CMYK JPEG": _encoded(smooth, "JPEG", "CMYK"),
        "transparent PNG": _encoded(np.dstack([pixels, pixels[..., :1]]), "PNG", "RGBA"),
        "deep PNG": deep.getvalue(),
        "palette GIF": _encoded(pixels, "GIF"),
        "long BMP": _encoded(pixels[:13], "BMP"),
        "tiny PNG": _encoded(pixels[:5, :7], "PNG"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("keep", list(Keep))
@pytest.mark.parametrize("exif", list(Exif))
def test_standalone_decodes_odd_images_to_the_same_pixels(run, ensembles, monkeypatch, keep, exif):
    opened = LoadedEnsemble.open(run)
    opened = replace(opened, rules=Rules(exif=exif, keep=keep))
    ensemble = ensembles["onnx"]
    monkeypatch.setattr(ensemble, "about", ensemble.about | {"exif": str(exif), "keep": str(keep)})
    for name, content in _odd_images().items():
        wanted = opened.read(content)
        top, left = ((side - opened.size) // 2 for side in wanted.shape[:2])
        square = wanted[top : top + opened.size, left : left + opened.size]
        assert np.array_equal(ensemble.decode(content), square), name


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_exported_graph_predicts_what_the_run_does(run, ensembles, engine):
    opened, ensemble = LoadedEnsemble.open(run), ensembles[engine]
    for count in (1, 5, 37):
        squares = np.random.default_rng(count).integers(0, 256, (count, 18, 18, 3), dtype=np.uint8)
        wanted = opened.predict(list(squares))[:]
        np.testing.assert_allclose(ensemble.predict(squares), wanted, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_exported_program_without_septet_says_what_predict_says(run, images, folder, capsys):
    files = sorted(str(file) for file in (images / "test").iterdir())
    hidden = "import sys; sys.modules.update(dict.fromkeys(('orchestrator', 'workers', 'mlflow', 'torch')))"
    code = f"{hidden}; import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
    argv = [
        sys.executable,
        "-I",
        "-c",
        f"import sys; sys.argv.pop(0); {code}",
        str(folder / "predict.py"),
        *files,
        "--engine",
        "onnx",
    ]
    said = subprocess.run(argv, capture_output=True, text=True, check=True, env={"PATH": os.defpath}).stdout
    assert main(["predict", str(run.root), *files, "--json"]) == 0
    for mine, wanted in zip(json.loads(said), json.loads(capsys.readouterr().out), strict=True):
        assert mine["path"] == wanted["path"] and mine["set"] == wanted["set"]
        assert [one["class"] for one in mine["top"]] == [one["class"] for one in wanted["top"]]
        assert mine["entropy"] == pytest.approx(wanted["entropy"], abs=2e-6)


@pytest.mark.slow
def test_mlflow_model_loads_no_pickle_and_answers_images_alone(run, images, folder, monkeypatch):
    import pandas as pd
    from mlflow import pyfunc

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    assert not [file for file in folder.rglob("*") if file.suffix in (".pkl", ".pickle")]
    model, files = pyfunc.load_model(str(folder)), sorted((images / "test").iterdir())
    found = model.predict(pd.DataFrame({"image": [file.read_bytes() for file in files]}))
    opened = LoadedEnsemble.open(run)
    wanted = opened.predict([opened.read(file) for file in files])[:]
    assert found["class"].tolist() == [opened.classes[row.argmax()] for row in wanted]
    np.testing.assert_allclose([list(each.values()) for each in found["probabilities"]], wanted, atol=1e-6)
    assert {"entropy", "set"} <= set(found.columns)
    with pytest.raises(Exception, match="image"):
        model.predict(pd.DataFrame({"image": [str(files[0])]}))


@pytest.mark.slow
def test_folder_holds_weights_and_a_card(run, folder):
    from safetensors.numpy import load_file

    opened = LoadedEnsemble.open(run)
    for member in opened.members:
        weights = load_file(folder / "members" / f"{member}.safetensors")
        assert any(
            np.array_equal(weights[name], each.detach().numpy())
            for name, each in opened.net(member).model.named_parameters()
        )
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlicense: ")
    for said in (opened.store.digest, "Intended use", "onnxruntime", "mlflow models serve", *opened.members):
        assert said in card


@pytest.mark.parametrize("crops", [Crops.ten, Crops.centre, Crops.flip])
def test_graph_with_any_views_predicts_what_the_run_does(run, crops):
    opened = LoadedEnsemble.open(run)
    opened = replace(opened, record=replace(opened.record, crops=crops))
    nets = [opened.net(member) for member in opened.members]
    graph = EnsembleGraph(nets, crops, opened.size, exporting._combining(opened.combination)).eval()
    squares = np.random.default_rng(3).integers(0, 256, (3, 18, 18, 3), dtype=np.uint8)
    with torch.no_grad():
        found = graph(torch.from_numpy(squares))[0].numpy()
    np.testing.assert_allclose(found, opened.predict(list(squares))[:], atol=1e-6, rtol=0)


class _Fixed(torch.nn.Module):
    def __init__(self, rows):
        super().__init__()
        self.rows = torch.from_numpy(rows)

    def forward(self, _):
        return self.rows


_TEMPERATURE = Calibration(Calibrator.temperature, "dev", 50, 1.0, 0.9, True, [0.7])
_VECTOR = replace(_TEMPERATURE, asked=Calibrator.vector, numbers=[[0.5, 1.5, 1.0], [0.1, -0.2, 0.0]])
_FULL = Stacking([[[1.0, 0.2, 0.0], [0.1, 0.9, 0.0], [0.0, 0.0, 0.5]]] * 2, [0.1, 0.2, -0.3])
_SHARED = Stacking([0.6, 0.3], [0.1, 0.2, -0.3])


@pytest.mark.parametrize(
    "combination",
    [
        Combination(CombineMethod.mean, (0.5, 0.5)),
        Combination(CombineMethod.weighted, (0.75, 0.25)),
        Combination(CombineMethod.geometric, (0.4, 0.6)),
        Combination(CombineMethod.stacked, (0.8, 0.8), stacking=_FULL),
        Combination(CombineMethod.stacked, (0.6, 0.3), stacking=_SHARED),
        Combination(CombineMethod.mean, (0.5, 0.5), calibration=_TEMPERATURE),
        Combination(CombineMethod.geometric, (0.5, 0.5), calibration=_VECTOR),
        Combination(CombineMethod.mean, (0.5, 0.5), calibration=replace(_TEMPERATURE, is_taken=False)),
    ],
)
def test_graph_combines_as_the_submission_does(combination):
    given = np.random.default_rng(1).dirichlet(np.full(3, 0.3), (2, 40)).astype(np.float32)
    # Ties and an exact zero.
    given[0, 0], given[1, 1] = (0.4, 0.4, 0.2), (1.0, 0.0, 0.0)
    graph = EnsembleGraph([], Crops.centre, 18, exporting._combining(combination))
    graph.members = torch.nn.ModuleList(_Fixed(own) for own in given)
    wanted = combine_block(combination, given).astype(np.float32)
    if combination.calibration and combination.calibration.is_taken:
        wanted = corrected(combination.calibration.asked, combination.calibration.numbers, wanted)
    np.testing.assert_allclose(graph(torch.zeros(40))[0].numpy(), wanted, atol=1e-7, rtol=0)


def test_ranks_are_refused():
    with pytest.raises(ConfigError, match="combine=rank"):
        exporting._combining(Combination(CombineMethod.rank, (0.5, 0.5)))


def test_isotonic_calibration_is_refused():
    curve = replace(_TEMPERATURE, asked=Calibrator.isotonic, numbers=[[[0, 1], [0, 1]]] * 3)
    with pytest.raises(ConfigError, match="isotonic"):
        exporting._combining(Combination(CombineMethod.mean, (1.0,), calibration=curve))


def test_five_scales_are_refused(run, tmp_path, monkeypatch):
    opened = LoadedEnsemble.open(run)
    scaled = replace(opened, record=replace(opened.record, crops=Crops.five_scales))
    monkeypatch.setattr(LoadedEnsemble, "open", lambda *_, **__: scaled)
    with pytest.raises(ConfigError, match="five_scales"):
        export(run, tmp_path / "out", ("torch",))


def test_existing_folder_is_refused_and_left_alone(run, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    assert main(["export", str(run.root), "--out", str(tmp_path / "mine"), "--to", "safetensors"]) == 2
    assert "exists" in capsys.readouterr().err and not list((tmp_path / "mine").iterdir())


def test_out_or_its_parent_missing_is_refused(run, tmp_path, capsys):
    assert main(["export", str(run.root)]) == 2
    assert "--out FOLDER" in capsys.readouterr().err
    assert main(["export", str(run.root), "--out", str(tmp_path / "no" / "such")]) == 2
    assert "parent" in capsys.readouterr().err
    before = sorted(run.root.rglob("*"))
    assert main(["export", str(run.root), "--out", str(run.root / "members" / "new"), "--to", "safetensors"]) == 2
    assert "lies in the run directory" in capsys.readouterr().err and sorted(run.root.rglob("*")) == before


@pytest.mark.slow
def test_disk_that_takes_no_more_is_told_in_one_line(run, tmp_path):
    words = [sys.executable, "-m", "orchestrator.cli.program", "export", run.root, "--out", tmp_path / "out"]
    limited = ["sh", "-c", 'ulimit -f 20 && exec "$0" "$@"', *words, "--to", "torch"]
    ended = subprocess.run(limited, capture_output=True, text=True, check=False)
    _, line = ended.stderr.splitlines()
    assert ended.returncode == 7 and "File too large; free space" in line
    assert not list(tmp_path.iterdir())


def test_run_without_a_submission_is_refused_and_leaves_nothing(tmp_path):
    run = build_run(tmp_path / "run")
    with pytest.raises(MemberFailed, match="no submission yet"):
        export(run.paths, tmp_path / "out", ("torch",))
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_forms_are_named_or_all_that_can_be_written(monkeypatch):
    assert parse_forms("") == exporting.FORMS and parse_forms("onnx, torch") == ("onnx", "torch")
    with pytest.raises(ConfigError, match=r"keras.*choose from pyfunc"):
        parse_forms("torch,keras")
    monkeypatch.setattr(exporting.util, "find_spec", lambda name: None if name == "onnxscript" else name)
    assert "onnx" not in parse_forms("") and "torch" in parse_forms("")
    with pytest.raises(ConfigError, match=r"needs onnxscript: pip install 'septet\[export\]'"):
        parse_forms("onnx")


def test_predict_py_names_a_file_that_is_no_image(tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    ensemble = Ensemble.__new__(Ensemble)
    ensemble.about = {"side": 18, "formats": None, "max_pixels": 100}
    for path in (bad, tmp_path / "absent.jpg", tmp_path):
        with pytest.raises(SystemExit, match=rf"{path}: cannot be read as an image \("):
            _read(ensemble, path)
