"""LeNet-5, cuda-convnet's nets and the Highway network: published parameters, and the layers written out."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.models import build, initialise, outline
from workers.models.highway import HighwayConv
from workers.models.lenet import LeNet5, PartlyConnected, Subsampling
from workers.settings import InitSettings, ModelSettings

NAMES = ("lenet5", "cifar_80s", "cifar_18pct", "highway")


def net(name: str, seed: int = 0) -> nn.Module:
    model = build(ModelSettings(name=name, input_size=32), 10)
    initialise(model, InitSettings(), seed)
    return model


def pictures(size: int = 32, num_images: int = 4) -> Tensor:
    return torch.randn(num_images, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_lenet5_has_the_published_trainable_parameters_layer_by_layer():
    model = LeNet5(10)
    counts = {name: sum(one.numel() for one in layer.parameters()) for name, layer in model.named_children()}
    assert counts == {"c1": 156, "s2": 12, "c3": 1516, "s4": 32, "c5": 48_120, "f6": 10_164, "output": 850}


# Table 1 of the paper: a row is a map of S2, a column a map of C3.
C3_TABLE = """
X . . . X X X . . X X X X . X X
X X . . . X X X . . X X X X . X
X X X . . . X X X . . X . X X X
. X X X . . X X X X . . X . X X
. . X X X . . X X X X . X X . X
. . . X X X . . X X X X . X X X
"""


def test_c3_equals_a_convolution_over_each_map_s_own_inputs():
    layer = PartlyConnected()
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    hidden = torch.randn(2, 6, 14, 14, generator=torch.Generator().manual_seed(1))
    columns = zip(*(row.split() for row in C3_TABLE.split("\n")[1:-1]), strict=True)
    weights, maps, first = layer.weight.detach(), [], 0
    for column in columns:
        seen = [index for index, mark in enumerate(column) if mark == "X"]
        maps.append(functional.conv2d(hidden[:, seen], weights[None, first : first + len(seen)]))
        first += len(seen)
    assert first == len(weights) == 60
    torch.testing.assert_close(layer(hidden), torch.cat(maps, dim=1), rtol=1e-4, atol=1e-4)


def test_subsampling_is_a_scaled_mean_of_four_pixels():
    layer = Subsampling(3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, 2.0, 3.0]))
        layer.bias.copy_(torch.tensor([0.0, 0.5, 1.0]))
    images = pictures(4)
    wanted = images.view(4, 3, 2, 2, 2, 2).mean(dim=(3, 5)) * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    torch.testing.assert_close(layer(images), wanted + torch.tensor([0.0, 0.5, 1.0])[:, None, None])


def test_cuda_convnet_s_net_of_80_seconds_equals_its_layers_in_the_published_order():
    model = net("cifar_80s")
    weights = dict(model.named_parameters())

    def conv(hidden, name):
        return functional.conv2d(hidden, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=2)

    hidden = functional.relu(functional.max_pool2d(conv(pictures(), "conv1"), 3, 2, ceil_mode=True))
    for name in ("conv2", "conv3"):
        hidden = functional.avg_pool2d(functional.relu(conv(hidden, name)), 3, 2, ceil_mode=True)
    assert hidden.shape == (4, 64, 4, 4)
    hidden = functional.relu(functional.linear(hidden.flatten(1), weights["fc64.weight"], weights["fc64.bias"]))
    wanted = functional.linear(hidden, weights["fc10.weight"], weights["fc10.bias"])
    torch.testing.assert_close(model(pictures()), wanted)
    assert list(weights)[::2] == ["conv1.weight", "conv2.weight", "conv3.weight", "fc64.weight", "fc10.weight"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["cifar_80s", "cifar_18pct"])
def test_gradients_in_the_layout_of_the_images_have_the_same_bits(name, dtype):
    # These nets compute alike in both modes; only in training the gradient is laid out again.
    model = net(name).to(dtype, memory_format=torch.channels_last)
    images = pictures().to(dtype, memory_format=torch.channels_last)
    gradients = {}
    for training in (True, False):
        model.train(training)
        gradients[training] = torch.autograd.grad(model(images).float().pow(2).sum(), list(model.parameters()))
    assert all(torch.equal(*pair) and pair[0].any() for pair in zip(*gradients.values(), strict=True))


def test_net_of_18_percent_equals_its_layers_with_the_published_norm():
    model, images = net("cifar_18pct").double(), 100 * pictures().double()
    weights = dict(model.named_parameters())

    def conv(hidden, name):
        return functional.conv2d(hidden, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=2)

    def normed(hidden):
        # cuda-convnet divides the published scale of 5e-5 by the window's 9 pixels.
        padded = functional.pad(hidden.square(), (1, 1, 1, 1))
        height, width = hidden.shape[2:]
        windows = [padded[:, :, top : top + height, left : left + width] for top in range(3) for left in range(3)]
        return hidden / (1 + 5e-5 / 9 * torch.stack(windows).sum(dim=0)) ** 0.75

    hidden = normed(functional.relu(functional.max_pool2d(conv(images, "conv1"), 3, 2, ceil_mode=True)))
    hidden = normed(functional.avg_pool2d(functional.relu(conv(hidden, "conv2")), 3, 2, ceil_mode=True))
    hidden = functional.avg_pool2d(functional.relu(conv(hidden, "conv3")), 3, 2, ceil_mode=True)
    wanted = functional.linear(hidden.flatten(1), weights["fc10.weight"], weights["fc10.bias"])
    torch.testing.assert_close(model(images), wanted)


def test_closed_gate_carries_the_input_on_and_an_open_one_replaces_it():
    layer = HighwayConv(3)
    hidden = pictures(8)
    with torch.no_grad():
        nn.init.zeros_(layer.gate.weight)
        layer.gate.bias.fill_(-50.0)
        assert torch.equal(layer(hidden), hidden)
        layer.gate.bias.fill_(50.0)
        torch.testing.assert_close(layer(hidden), functional.relu(layer.transform(hidden)))


def test_fresh_highway_gates_let_most_of_the_input_through():
    biases = {name: value for name, value in net("highway").named_parameters() if name.endswith("gate.bias")}
    assert len(biases) == 9
    assert all(bool((value == -2.0).all()) for value in biases.values())


@pytest.mark.parametrize("name", NAMES)
def test_outline_of_a_small_net_counts_what_is_built(name):
    found, model = outline(ModelSettings(name=name, input_size=32), 10), net(name)
    assert found.num_parameters == sum(value.numel() for value in model.parameters())
    assert set(found.layers) == {key.rpartition(".")[0] for key, _ in model.named_parameters()}
    assert found.num_macs > 0
    assert model(pictures()).shape == (4, 10)
