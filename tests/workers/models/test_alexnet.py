"""The network: published counts, layers where the literature has them."""

from dataclasses import replace

import pytest
import torch

from workers.errors import ConfigError
from workers.models import build, outline
from workers.models.fresh import draw
from workers.settings import InitScheme, InitSettings, ModelSettings

SMALL = ModelSettings(input_size=56, width=0.25, conv1_kernel=5, conv1_stride=2, fc_units=64)


@pytest.mark.parametrize(
    ("changes", "published"), [({}, 60_965_224), ({"num_convs": 6}, 61_555_304), ({"groups": 1}, 62_378_344)]
)
def test_parameters_at_1000_classes_equal_the_published_count(changes, published):
    settings = ModelSettings(**changes)
    with torch.device("meta"):
        built = sum(parameter.numel() for parameter in build(settings, 1000).parameters())
    assert built == published == outline(settings, 1000).num_parameters
    assert FULL.num_macs == 724_406_816
    assert FULL.num_neurons == 659_272 == sum((290_400, 186_624, 64_896, 64_896, 43_264, 4096, 4096, 1000))


def test_true_geometry_gives_the_published_feature_maps():
    with torch.device("meta"):
        layers = build(ModelSettings(), 1000).layers
    assert [conv.size for conv in layers.convs] == [55, 27, 13, 13, 13]
    assert layers.linears[0].in_features == 9216


def test_input_too_small_for_the_poolings_is_refused():
    with pytest.raises(ConfigError, match="input_size=16"):
        outline(ModelSettings(input_size=16), 10)


def test_he_init_has_the_fan_in_variance_and_gaussian_the_given_one():
    model = build(SMALL, 10)
    fc7 = model.get_submodule("fc7")
    draw(model, InitSettings(scheme=InitScheme.he), torch.Generator().manual_seed(0))
    assert fc7.weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.1)
    draw(model, InitSettings(scheme=InitScheme.gaussian, std=0.01, bias=1.0), torch.Generator().manual_seed(0))
    assert fc7.weight.std().item() == pytest.approx(0.01, rel=0.1)
    ones = {name for name, value in model.named_parameters() if name.endswith("bias") and bool((value == 1).all())}
    assert ones == {"conv2.bias", "conv4.bias", "conv5.bias", "fc6.bias", "fc7.bias"}


def test_convolutions_one_by_one_are_the_whole_net_and_a_pooled_one_ends_with_its_pooling():
    model = build(SMALL, 10).eval()
    images = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    first = model.convolve(0, images)
    assert first.shape == (2, 24, 13, 13)
    assert torch.equal(model(first, first=1), model(images))
    bare = torch.nn.functional.pad(images, (2, 2, 2, 2))
    assert torch.equal(model.convolve(0, bare, padded=False), first)


@pytest.mark.parametrize(("groups", "windows"), [(2, 2), (1, 1)])
def test_normalisation_that_stops_between_the_groups_does_each_groups_channels_alone(groups, windows):
    settings = replace(SMALL, groups=groups, lrn_alpha=0.3, lrn_across_halves=False)
    model = build(settings, 10)
    draw(model, InitSettings(), torch.Generator().manual_seed(0))
    model.double()
    images = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    conv1 = model.get_submodule("conv1")
    alone = torch.nn.LocalResponseNorm(5, 0.3, 0.75, 2.0)
    expected = torch.cat([alone(part) for part in conv1(images).relu().chunk(windows, dim=1)], dim=1)
    torch.testing.assert_close(
        model.convolve(0, images), torch.nn.functional.max_pool2d(expected, 3, 2), rtol=1e-12, atol=1e-12
    )


FULL = outline(ModelSettings(), 1000)


def test_select_knows_layers_head_and_body_and_nothing_else():
    assert FULL.select("conv3") == ("conv3",)
    assert FULL.select("head") == ("fc8",)
    assert FULL.select("body") == ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")
    assert FULL.select("conv") == () == FULL.select("conv7")
    assert FULL.select_all(("body", "head")) == set(FULL.layers)


def test_factors_the_narrower_name_counts_whatever_the_order():
    for named in ({"body": 0.1, "conv1": 0.01}, {"conv1": 0.01, "body": 0.1}):
        factors = FULL.factors(named)
        assert factors["conv1"] == 0.01
        assert factors["conv2"] == 0.1 == factors["fc7"]
        assert "fc8" not in factors
