"""torchvision's models as members: their outlines, their fresh weights, one update of each kind."""

import pytest
import torch
from torch.nn import functional
from torchvision import models

from workers import numerics
from workers.errors import ConfigError
from workers.models import build, initialise, outline, place
from workers.models.replacements import AveragePool
from workers.protocol import Numerics
from workers.settings import InitSettings, ModelSettings, OptimizerSettings
from workers.training import build_optimizer, mean_loss
from workers.training.evaluation import main_logits

NETS = ("resnet18", "googlenet", "squeezenet1_1", "mobilenet_v3_small", "efficientnet_b0", "vgg11")


def settings(name: str, size: int = 32) -> ModelSettings:
    return ModelSettings(name=f"torchvision/{name}", input_size=size)


@pytest.mark.parametrize(("name", "parameters", "macs"), [("resnet18", 11_689_512, 1.81), ("vgg11", 132_863_336, 7.61)])
def test_counts_at_the_true_size_equal_the_published_ones(name, parameters, macs):
    found = outline(settings(name, 224), 1000)
    assert found.num_parameters == parameters
    assert round(found.num_macs / 1e9, 2) == macs


def test_counts_of_lenet_hold_the_connections_that_are_there_and_no_other():
    found = outline(ModelSettings(name="lenet5", input_size=32), 10)
    assert found.num_macs == 25 * 6 * 28**2 + 25 * 60 * 10**2 + 25 * 16 * 120 + 120 * 84 + 84 * 10
    assert found.num_neurons == 6 * 28**2 + 16 * 10**2 + 120 + 84 + 10


def test_heads_of_a_net_with_auxiliary_classifiers_are_all_that_know_the_classes():
    found = outline(settings("googlenet"), 7)
    assert found.select("head") == ("fc", "aux1.fc2", "aux2.fc2")
    assert not set(found.select("body")) & set(found.select("head"))
    assert set(found.select("inception4a")) < set(found.layers)
    assert {found.layers[head][1] for head in found.select("head")} == {7}


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        ("torchvision/resnt18", "torchvision/resnet18"),
        ("resnet50", "torchvision/resnet50"),
        ("alexnt", "alexnet"),
        # A detection model is no member.
        ("torchvision/fcn_resnet50", "torchvision/"),
    ],
)
def test_name_that_no_model_has_is_refused_with_the_nearest(asked, nearest):
    with pytest.raises(ConfigError, match=rf"^model.name={asked}: did you mean {nearest}"):
        outline(ModelSettings(name=asked), 10)


@pytest.mark.parametrize(("name", "size"), [("vgg11", 16), ("vit_b_16", 64), ("inception_v3", 32)])
def test_images_that_a_model_does_not_take_are_refused_in_one_line(name, size):
    with pytest.raises(ConfigError, match=f"^model.input_size={size}: torchvision/{name} does not take") as refusal:
        outline(settings(name, size), 10)
    assert "\n" not in str(refusal.value)


def test_fresh_weights_are_torchvisions_own_by_seed_and_draw_nothing_from_the_global_generator():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    net = build(settings("resnet18"), 10).to(memory_format=torch.channels_last)
    initialise(net, InitSettings(), seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    expected = models.resnet18(weights=None, num_classes=10).state_dict()
    drawn = net.state_dict()
    assert drawn.keys() == expected.keys()
    assert all(torch.equal(drawn[name], expected[name]) for name in expected)
    initialise(net, InitSettings(), seed=4)
    assert not torch.equal(net.get_parameter("conv1.weight"), expected["conv1.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", NETS)
def test_update_moves_every_weight_that_the_loss_depends_on(name, precision):
    if precision == "bf16" and not numerics.capabilities().bf16:
        pytest.skip("this CPU has no bfloat16")
    chosen = Numerics(precision=precision)
    numerics.apply(chosen)
    net = build(settings(name), 10).to(memory_format=torch.channels_last)
    initialise(net, InitSettings(), seed=0)
    before = {key: value.clone() for key, value in net.named_parameters()}
    optimizer = build_optimizer(net, OptimizerSettings(lr=0.1), (), {})
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 32, 32, generator=generator).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(4)
    with numerics.autocast(chosen):
        outputs = net(images)
    loss = mean_loss(outputs, labels)
    loss.backward()
    optimizer.step()
    assert main_logits(outputs).shape == (4, 10)
    assert torch.isfinite(loss)
    moved = [key for key, value in net.named_parameters() if not torch.equal(value, before[key])]
    assert len(moved) > 0.9 * len(before)
    assert all(one.grad is not None and torch.isfinite(one.grad).all() for one in net.parameters())


def test_auxiliary_losses_count_a_third_less_a_bit_and_the_main_logits_are_the_first():
    generator = torch.Generator().manual_seed(0)
    main, second, first = (torch.randn(5, 4, generator=generator) for _ in range(3))
    labels = torch.tensor([0, 1, 2, 3, 0])

    def alone(logits):
        return functional.cross_entropy(logits, labels)

    outputs = models.GoogLeNetOutputs(main, second, first)
    assert torch.allclose(mean_loss(outputs, labels), alone(main) + 0.3 * (alone(second) + alone(first)))
    assert torch.equal(mean_loss(main, labels), alone(main))
    assert main_logits(outputs) is main


@pytest.mark.parametrize("inputs", [(1, 1), (2, 9), (6, 6), (7, 7), (13, 5), (14, 14)])
@pytest.mark.parametrize("size", [(4, 4), (6, 6), (7, 7), (3, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_average_pool_is_torchs_adaptive_one_in_value_and_gradient(inputs, size, dtype):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, *inputs, generator=generator).to(dtype).contiguous(memory_format=torch.channels_last)
    grad = torch.randn(2, 3, *size, generator=generator).to(dtype)
    found = []
    # The reference is exact; autocast would round the matrices to 16 bits.
    for pool, given in ((AveragePool(size), maps), (torch.nn.AdaptiveAvgPool2d(size), maps.double())):
        given.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            output = pool(given)
        output.backward(grad.to(output.dtype))
        assert output.dtype == given.grad.dtype == given.dtype
        found.append((output.detach().double(), given.grad.double()))
    bound = 1e-6 if dtype is torch.float32 else 8e-3
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=bound, atol=bound)


@pytest.mark.parametrize(
    ("name", "size"), [pytest.param("alexnet", 96, marks=pytest.mark.slow), ("googlenet", 64), ("resnet18", 32)]
)
def test_net_placed_on_a_gpu_has_other_poolings_and_is_the_same_in_outputs_gradients_and_names(name, size, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, size, size, generator=generator)
    found = []
    for device in ("cpu", "cuda"):
        net = build(settings(name, size), 10)
        initialise(net, InitSettings(), seed=0)
        if device == "cuda":
            monkeypatch.setattr(torch.nn.Module, "to", lambda self, *_: self)
            # On a GPU its gradient is refused; here whoever calls it is caught, unless it makes one pixel.
            monkeypatch.setattr(functional, "adaptive_avg_pool2d", _only_one_pixel(functional.adaptive_avg_pool2d))
        place(net, device)
        assert any(isinstance(one, AveragePool) for one in net.modules()) is (device == "cuda" and name == "alexnet")
        torch.manual_seed(0)
        outputs = net(images)
        mean_loss(outputs, torch.tensor([1, 2])).backward()
        found.append((main_logits(outputs).detach(), {key: one.grad for key, one in net.named_parameters()}))
        assert list(net.state_dict()) == list(models.get_model(name, num_classes=10, **_whole(name)).state_dict())
    (before, grads), (after, new) = found
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    assert grads.keys() == new.keys()
    for key in grads:
        torch.testing.assert_close(new[key], grads[key], rtol=1e-3, atol=1e-3 * grads[key].abs().max().item() + 1e-9)


def _whole(name):
    return {"aux_logits": True, "init_weights": False} if name == "googlenet" else {}


def _only_one_pixel(pool):
    def checked(maps, output_size):
        assert output_size in (1, (1, 1))
        return pool(maps, output_size)

    return checked
