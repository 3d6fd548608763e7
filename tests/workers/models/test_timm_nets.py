"""timm's nets as members: their names, arguments, input size and fresh weights."""

import sys

import pytest
import torch

from workers.errors import ConfigError
from workers.models import build, initialise, outline
from workers.models.layers import LIBRARIES
from workers.settings import InitSettings, ModelSettings


def test_timm_that_is_not_installed_is_told_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"timm is not installed; pip install 'septet\[timm\]'$"):
        outline(ModelSettings(name="timm/test_resnet"), 7)


timm = pytest.importorskip("timm", reason="the extra `timm` is not installed")


def settings(name="test_resnet", size=32, **args):
    return ModelSettings(name=f"timm/{name}", input_size=size, args=args)


@pytest.mark.parametrize(("name", "size", "num_parameters"), [("test_resnet", 32, None), ("test_vit", 48, None)])
def test_net_is_timms_own_for_these_classes_and_this_size(name, size, num_parameters):
    found = outline(settings(name, size), 7)
    given = {"img_size": size} if name == "test_vit" else {}
    theirs = timm.create_model(name, num_classes=7, **given)
    assert found.num_parameters == sum(one.numel() for one in theirs.parameters())
    head = theirs.get_submodule(found.head)
    assert head.out_features == 7
    assert build(settings(name, size), 7).state_dict().keys() == theirs.state_dict().keys()


def test_fresh_weights_are_timms_own_by_seed_and_draw_nothing_from_the_global_generator():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    net = build(settings(), 7)
    initialise(net, InitSettings(), seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    expected = timm.create_model("test_resnet", num_classes=7).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in net.state_dict().items())
    initialise(net, InitSettings(), seed=4)
    assert not torch.equal(net.get_parameter("conv1.0.weight"), expected["conv1.0.weight"])


def test_arguments_reach_the_net_and_unknown_ones_are_refused_with_the_nearest():
    assert build(settings(drop_rate=0.25), 7).drop_rate == 0.25
    with pytest.raises(
        ConfigError, match=r"^model.args.drop_rat: timm/test_resnet takes no .* did you mean drop_rate\?"
    ):
        build(settings(drop_rat=0.25), 7)
    with pytest.raises(ConfigError, match=r"^model.args.pretrained_cfg_overlay: Septet gives it, or has no use for it"):
        build(settings(pretrained_cfg_overlay={"file": "x.pth"}), 7)
    # Its class takes any others and hands them on.
    with pytest.raises(ConfigError, match=r"^model.name=timm/mobilevit_xxs: fails \(TypeError: .*odd"):
        build(settings("mobilevit_xxs", 64, odd=1), 7)


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [("timm/test_resnt", "timm/test_resnet"), ("timm/resnet18.a1_in1k", "timm/resnet"), ("timm/hf-hub:x/y", "timm/")],
)
def test_name_that_no_net_has_is_refused_with_the_nearest(asked, nearest):
    with pytest.raises(ConfigError, match=rf"^model.name={asked}: did you mean {nearest}"):
        outline(ModelSettings(name=asked), 7)


@pytest.mark.parametrize("library", LIBRARIES)
def test_net_whose_strided_convolution_sees_one_pixel_is_known(library):
    assert outline(ModelSettings(name=f"{library}resnet18", input_size=16), 7).strided_on_a_pixel.startswith(
        "layer4.0."
    )
    assert not outline(ModelSettings(name=f"{library}resnet18", input_size=32), 7).strided_on_a_pixel
