"""LeNet-5, cuda-convnet's nets and the Highway network: published parameters, and the layers written out."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.models.highway import HighwayConv
from workers.models.lenet import LeNet5, PartlyConnected, Subsampling
from workers.models.outline import outline
from workers.models.registry import build, initialise
from workers.settings import InitScheme, InitSettings, ModelSettings

NAMES = ("lenet5", "cifar_80s", "cifar_18pct", "highway")


def net(name: str, seed: int = 0) -> nn.Module:
    model = build(ModelSettings(name=name, input_size=32), 10)
    initialise(model, InitSettings(), seed)
    return model


def pictures(size: int = 32, num_images: int = 4) -> Tensor:
    return torch.randn(num_images, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_lenet5_has_the_published_trainable_parameters_layer_by_layer() -> None:
    model = LeNet5(10)
    counts = {name: sum(one.numel() for one in layer.parameters()) for name, layer in model.named_children()}
    assert counts == {"c1": 156, "s2": 12, "c3": 1516, "s4": 32, "c5": 48_120, "f6": 10_164, "output": 850}


def test_map_of_c3_sees_the_maps_of_the_paper_s_table_and_no_other() -> None:
    layer = PartlyConnected()
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    base = torch.zeros(1, 6, 5, 5)
    for seen in range(6):
        lit = base.clone()
        lit[0, seen] = 1.0
        moved = {row for row in range(16) if layer(lit)[0, row].abs().item() > 1e-6}
        assert len(moved) == 10, "each map of S2 is seen by ten of C3"
    assert 5 in {row for row in range(16) if layer(base.index_fill(1, torch.tensor([0, 1, 5]), 1.0))[0, row] != 0}


def test_subsampling_is_a_scaled_mean_of_four_pixels() -> None:
    layer = Subsampling(3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, 2.0, 3.0]))
        layer.bias.copy_(torch.tensor([0.0, 0.5, 1.0]))
    images = pictures(4)
    wanted = images.view(4, 3, 2, 2, 2, 2).mean(dim=(3, 5)) * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    torch.testing.assert_close(layer(images), wanted + torch.tensor([0.0, 0.5, 1.0])[:, None, None])


def test_cuda_convnet_s_net_of_80_seconds_equals_its_layers_in_the_published_order() -> None:
    model = net("cifar_80s")
    weights = dict(model.named_parameters())

    def conv(hidden: Tensor, name: str) -> Tensor:
        return functional.conv2d(hidden, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=2)

    hidden = functional.relu(functional.max_pool2d(conv(pictures(), "conv1"), 3, 2, ceil_mode=True))
    for name in ("conv2", "conv3"):
        hidden = functional.avg_pool2d(functional.relu(conv(hidden, name)), 3, 2, ceil_mode=True)
    assert hidden.shape == (4, 64, 4, 4)
    hidden = functional.relu(functional.linear(hidden.flatten(1), weights["fc64.weight"], weights["fc64.bias"]))
    wanted = functional.linear(hidden, weights["fc10.weight"], weights["fc10.bias"])
    torch.testing.assert_close(model(pictures()), wanted)
    assert list(weights)[::2] == ["conv1.weight", "conv2.weight", "conv3.weight", "fc64.weight", "fc10.weight"]


def test_net_of_18_percent_has_no_hidden_layer_and_norms_without_parameters() -> None:
    found = outline(ModelSettings(name="cifar_18pct", input_size=32), 10)
    assert list(found.layers) == ["conv1", "conv2", "conv3", "fc10"]
    assert found.num_parameters == 32 * 75 + 32 + 32 * 800 + 32 + 64 * 800 + 64 + 10 * 1024 + 10


def test_closed_gate_carries_the_input_on_and_an_open_one_replaces_it() -> None:
    layer = HighwayConv(3)
    hidden = pictures(8)
    with torch.no_grad():
        nn.init.zeros_(layer.gate.weight)
        layer.gate.bias.fill_(-50.0)  # type: ignore[union-attr]
        assert torch.equal(layer(hidden), hidden)
        layer.gate.bias.fill_(50.0)  # type: ignore[union-attr]
        torch.testing.assert_close(layer(hidden), functional.relu(layer.transform(hidden)))


def test_fresh_highway_gates_let_most_of_the_input_through() -> None:
    biases = {name: value for name, value in net("highway").named_parameters() if name.endswith("gate.bias")}
    assert len(biases) == 9
    assert all(bool((value == -2.0).all()) for value in biases.values())


@pytest.mark.parametrize("name", NAMES)
def test_outline_of_a_small_net_counts_what_is_built(name: str) -> None:
    found, model = outline(ModelSettings(name=name, input_size=32), 10), net(name)
    assert found.num_parameters == sum(value.numel() for value in model.parameters())
    assert set(found.layers) == {key.rpartition(".")[0] for key, _ in model.named_parameters()}
    assert found.num_macs > 0
    assert model(pictures()).shape == (4, 10)


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_draws_the_same_weights_and_another_seed_others(name: str) -> None:
    one, same, other = (dict(net(name, seed).named_parameters()) for seed in (0, 0, 1))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", NAMES)
def test_small_net_fits_a_few_images_in_some_updates(name: str) -> None:
    torch.manual_seed(0)
    model, images, labels = net(name), pictures(num_images=8), torch.arange(8) % 4
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_published_deviations_can_be_given_to_cuda_convnet_s_net() -> None:
    model = build(ModelSettings(name="cifar_80s", input_size=32), 10)
    published = {"conv1": 1e-4, "conv2": 0.01, "conv3": 0.01, "fc64": 0.1, "fc10": 0.1}
    initialise(model, InitSettings(InitScheme.gaussian, layer_std=published), seed=0)
    for name, std in published.items():
        assert model.get_parameter(f"{name}.weight").std().item() == pytest.approx(std, rel=0.1)
