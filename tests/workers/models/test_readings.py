"""What the sources of 2012 tell differently: each option against the operation it names, written out slowly."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.errors import ConfigError
from workers.models import AlexNet, build, initialise, outline
from workers.models.within_map_norm import WithinMapNorm
from workers.settings import Activation, DropoutScaling, InitScheme, InitSettings, ModelSettings

TINY = ModelSettings(input_size=56, width=0.1, conv1_kernel=5, conv1_stride=2, fc_units=32)
RELEASE = replace(
    TINY,
    conv1_padding=0,
    conv1_padding_end=3,
    lrn1_before_relu=True,
    within_map_norm=True,
    dropout_scaling=DropoutScaling.test,
)


def net(settings: ModelSettings) -> AlexNet:
    """In float64, with weights and biases far from zero."""
    model = build(settings, 7).double()
    assert isinstance(model, AlexNet)
    initialise(model, InitSettings(scheme=InitScheme.gaussian, std=0.2, bias=0.3), seed=1)
    return model


def pictures(num_images: int = 3) -> Tensor:
    return torch.randn(num_images, 3, 56, 56, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def layer(model: nn.Module, name: str) -> nn.Conv2d | nn.Linear:
    found = model.get_submodule(name)
    assert isinstance(found, nn.Conv2d | nn.Linear)
    return found


def lrn(hidden: Tensor, alpha: float) -> Tensor:
    """The paper's formula channel by channel; α is not divided."""
    channels = hidden.shape[1]
    out = torch.empty_like(hidden)
    for channel in range(channels):
        window = hidden[:, max(0, channel - 2) : channel + 3]
        out[:, channel] = hidden[:, channel] / (2 + alpha * window.square().sum(dim=1)) ** 0.75
    return out


def within_maps(hidden: Tensor) -> Tensor:
    """5 × 5 windows pixel by pixel, α over 25."""
    out = torch.empty_like(hidden)
    for row in range(hidden.shape[2]):
        for column in range(hidden.shape[3]):
            window = hidden[:, :, max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
            total = window.square().sum(dim=(2, 3))
            out[:, :, row, column] = hidden[:, :, row, column] / (2 + 1e-4 / 25 * total) ** 0.75
    return out


def released(model: AlexNet, images: Tensor) -> Tensor:
    """The release's forward pass at test time, layer by layer."""
    conv1 = layer(model, "conv1")
    hidden = functional.conv2d(functional.pad(images, (0, 3, 0, 3)), conv1.weight, conv1.bias, stride=2)
    hidden = functional.max_pool2d(lrn(hidden, 1e-4 / 5).relu(), 3, 2)
    conv2 = layer(model, "conv2")
    hidden = functional.conv2d(hidden, conv2.weight, conv2.bias, padding=2, groups=2).relu()
    hidden = functional.max_pool2d(within_maps(lrn(hidden, 1e-4 / 5)), 3, 2)
    for name, groups in (("conv3", 1), ("conv4", 2), ("conv5", 2)):
        conv = layer(model, name)
        hidden = functional.conv2d(hidden, conv.weight, conv.bias, padding=1, groups=groups).relu()
    hidden = functional.max_pool2d(hidden, 3, 2).flatten(1)
    for name in ("fc6", "fc7"):
        hidden = 0.5 * layer(model, name)(hidden).relu()
    logits: Tensor = layer(model, "fc8")(hidden)
    return logits


def test_release_reading_equals_its_layers_written_out():
    model = net(RELEASE).eval()
    images = pictures()
    torch.testing.assert_close(model(images), released(model, images), rtol=0, atol=1e-12)


def test_literal_alpha_sums_over_the_window():
    hidden = torch.randn(2, 8, 27, 27, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).relu() * 20
    for over_size, alpha in ((True, 1e-4 / 5), (False, 1e-4)):
        norm = net(replace(TINY, lrn_alpha_over_size=over_size)).get_submodule("norm_conv1")
        wanted = lrn(hidden, alpha)
        torch.testing.assert_close(norm(hidden), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [3, 5])
def test_norm_within_maps_equals_the_slow_sum_and_its_gradient_the_numerical_one(size):
    norm = WithinMapNorm(size, 0.1, 0.75, 2.0)
    images = torch.randn(2, 3, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    if size == 5:
        torch.testing.assert_close(WithinMapNorm(5, 1e-4, 0.75, 2.0)(images), within_maps(images), rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(norm, images.requires_grad_())


def test_norm_within_maps_sums_bfloat16_in_float32():
    images = torch.full((1, 1, 5, 5), 16.0, dtype=torch.bfloat16)
    exact = WithinMapNorm(5, 1.0, 0.75, 2.0)(images.double())
    assert WithinMapNorm(5, 1.0, 0.75, 2.0)(images).double().sub(exact).abs().max() < 0.01 * exact.max()


def test_dropout_of_the_release_keeps_the_mean_between_training_and_test():
    torch.manual_seed(0)
    ones = torch.ones(400, 400)
    for scaling, trained, tested in ((DropoutScaling.train, 2.0, 1.0), (DropoutScaling.test, 1.0, 0.5)):
        model = net(replace(TINY, dropout_scaling=scaling))
        dropped = model.train().drop(ones)
        assert set(dropped.unique().tolist()) == {0.0, trained}
        assert dropped.mean().item() == pytest.approx(tested, rel=0.02)
        assert set(model.eval().drop(ones).unique().tolist()) == {tested}


def test_tanh_net_has_no_relu_anywhere():
    model = net(replace(TINY, activation=Activation.tanh)).eval()
    hidden = model.convolve(0, pictures())
    assert hidden.min() < 0
    one, other = model(pictures()), net(TINY).eval()(pictures())
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("left_out", [("conv3",), ("conv4",), ("conv5",), ("conv3", "conv4")])
def test_net_without_middle_convolutions_keeps_the_pooling_and_the_names(left_out):
    settings = replace(TINY, without=left_out)
    model = net(settings)
    assert [conv.name for conv in model.layers.convs] == [
        name for name in ("conv1", "conv2", "conv3", "conv4", "conv5") if name not in left_out
    ]
    assert model.layers.convs[-1].pool == 3
    found = outline(settings, 7)
    assert found.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert model(pictures()).shape == (3, 7)


def test_net_on_one_gpu_has_half_the_filters_and_no_groups():
    one = ModelSettings(groups=1, filters=(48, 128, 192, 192, 256, 256))
    layers = outline(one, 1000).layers
    assert layers["conv2"] == (128, 48, 5, 1)
    assert layers["conv5"] == (256, 192, 3, 1)
    assert layers["fc6"] == outline(ModelSettings(), 1000).layers["fc6"]


def test_init_of_single_layers_and_of_the_article_s_biases():
    model = net(TINY)
    article = ("conv2", "conv4", "conv5", "conv6", "fc6", "fc7", "fc8")
    init = InitSettings(InitScheme.gaussian, 0.01, 1.0, {"conv3": 0.03, "conv4": 0.03}, article)
    initialise(model, init, seed=0)
    assert layer(model, "conv3").weight.std().item() == pytest.approx(0.03, rel=0.1)
    assert layer(model, "conv5").weight.std().item() == pytest.approx(0.01, rel=0.1)
    ones = {name for name, value in model.named_parameters() if name.endswith("bias") and bool((value == 1).all())}
    assert ones == {"conv2.bias", "conv4.bias", "conv5.bias", "fc6.bias", "fc7.bias", "fc8.bias"}


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"without": ("conv2",)}, "without"),
        ({"without": ("conv3", "conv4", "conv5")}, "without"),
        ({"filters": (1, 2)}, "filters"),
        ({"pool_size": 4}, "pool_size"),
        ({"conv1_padding_end": -1}, "conv1_padding_end"),
        ({"bottleneck": -1}, "bottleneck=-1"),
    ],
)
def test_impossible_geometry_is_refused_by_name(wrong, named):
    with pytest.raises((ValueError, ConfigError), match=named):
        replace(TINY, **wrong)
