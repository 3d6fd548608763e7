"""Data from elsewhere that was made to do harm, through the command line: exit 3 in one line, and no marker.

tests/workers/data has the same attacks one by one, at the readers that refuse them.
"""

import hashlib
import io
import os
import pickle
import zipfile

import command_line
import pytest
import torch
from command_line import write_ensemble
from pictures import png

from orchestrator.cli.program import main
from workers.protocol import InitFile
from workers.training import init_file


class Make:
    """Unpickled, it makes a folder."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def ask(tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*words):
        answer = command_line.ask(capsys, "prepare", *words)
        assert answer.code == 0 or answer.line
        assert not set("\x1b\x07\x9b") & set(answer.said)
        return answer

    return run


def _target(source, root, *more):
    return ["ensemble=five", f"dataset@datasets.target={source}", f"datasets.target.root={root}", *more]


@pytest.mark.parametrize(
    "cell", ["x" * (1 << 18), '"' + "x\n" * 5000, "x\x1b]0;owned\x07"], ids=["huge", "never closed", "escape"]
)
def test_csv_cell_beyond_measure_is_told_in_one_printable_line(cell, tmp_path, ask):
    root = tmp_path / "root"
    (root / "images").mkdir(parents=True)
    (root / "images" / "a.png").write_bytes(png(2))
    (root / "train.csv").write_text(f"id,label\na.png,x\n{cell},y\n")
    answer = ask(*_target("csv", root))
    assert answer.code == 3
    assert len(answer.said) < 1 << 19


def test_pickle_in_the_place_of_cifar_is_refused_by_its_checksum(tmp_path, ask):
    marker, folder = tmp_path / "marker", tmp_path / "root" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    payload = pickle.dumps(Make(marker))
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(payload)
    words = _target("torchvision", tmp_path / "root", "datasets.target.name=CIFAR10", "datasets.target.download=false")
    assert ask(*words).code == 3
    assert not marker.exists()
    pickle.loads(payload)  # noqa: S301 - to show that it is live
    assert marker.exists(), "the payload is no live one"


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_pickle_in_the_place_of_published_weights_is_refused_and_not_run(suffix, tmp_path, capsys, monkeypatch):
    marker, path = tmp_path / "marker", tmp_path / f"weights{suffix}"
    torch.save({"fc8.weight": Make(marker)}, path)
    assert not marker.exists()
    monkeypatch.chdir(tmp_path)
    groups = write_ensemble(tmp_path / "groups", "own", "solo")
    given = f"+ensemble.members.solo.stages.train.init_file={path}"
    assert main(["plan", f"--config-dir={groups}", "ensemble=own", given]) == 3
    assert str(path) in capsys.readouterr().err
    assert not marker.exists()
    torch.load(io.BytesIO(path.read_bytes()), weights_only=False)
    assert marker.exists(), "the payload is no live one"


def test_compressed_archive_of_weights_is_not_unpacked(tmp_path):
    plain, packed = tmp_path / "plain.pt", tmp_path / "packed.pt"
    torch.save({"w": torch.zeros(1 << 20)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    assert packed.stat().st_size < plain.stat().st_size / 100

    def given(path):
        return InitFile(str(path), hashlib.sha256(path.read_bytes()).hexdigest())

    assert init_file.read_init_file(given(plain))["w"].numel() == 1 << 20
    with pytest.raises(init_file.DataError, match="not a plain state dict"):
        init_file.read_init_file(given(packed))


def test_class_and_file_names_reach_terminal_and_report_as_text(tmp_path, ask):
    root = tmp_path / "root"
    names = ("\x1b]0;owned\x07", "=cmd|' calc'!A0", "<script>alert(1)<", "\x9b31m")
    for label, name in enumerate(names):
        folder = root / "train" / name
        folder.mkdir(parents=True)
        for number in range(12):
            (folder / f"{number}.png").write_bytes(png(100 * label + number))
    (root / "train" / names[0] / "\x1b[2Jbad.png").write_bytes(b"no image")
    answer = ask(*_target("folder", root, "datasets.target.size=16"))
    assert answer.code == 3
    assert "\\x1b[2Jbad.png" in answer.said
    skipped = ask(*_target("folder", root, "datasets.target.size=16", "datasets.target.on_bad=skip"))
    assert skipped.code == 0
