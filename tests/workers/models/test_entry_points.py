"""Nets that installed packages offer by an entry point of the group `septet.models`."""

from dataclasses import replace

import pytest
import torch

from workers.errors import CheckFailed, ConfigError
from workers.models import build, check_name, code_of, outline
from workers.settings import ModelSettings

MODULE = """
from torch import nn
def build(num_classes, input_size, width=3):
    return nn.Sequential(nn.Conv2d(3, width, 1), nn.Flatten(), nn.Linear(width * input_size**2, num_classes))
"""


def install(folder, version="1.2"):
    about = folder / f"fine_nets-{version}.dist-info"
    about.mkdir(parents=True)
    (folder / "fine_nets_module.py").write_text(MODULE)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: fine-nets\nVersion: {version}\n")
    (about / "entry_points.txt").write_text("[septet.models]\nfine = fine_nets_module:build\n")


def test_net_of_a_package_is_found_by_name_and_identified_by_its_version(tmp_path, monkeypatch):
    install(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    check_name("fine")
    asked = ModelSettings(name="fine", input_size=8, args={"width": 5})
    model = replace(asked, code=code_of(asked))
    assert model.code == "fine-nets 1.2"
    assert build(model, 4)(torch.zeros(1, 3, 8, 8)).shape == (1, 4)
    assert outline(model, 4).layers.keys() == {"0", "2"}
    with pytest.raises(CheckFailed, match=r"^model.name=fine: is of fine-nets 1.2 here, planned was fine-nets 1.1"):
        build(replace(model, code="fine-nets 1.1"), 4)


def test_name_that_no_package_offers_is_refused():
    with pytest.raises(ConfigError, match=r"^model.name=fine: did you mean .*known: alexnet, "):
        check_name("fine")
    with pytest.raises(ConfigError, match=r"^model.name=fine: no installed package offers it in septet.models"):
        code_of(ModelSettings(name="fine"))
