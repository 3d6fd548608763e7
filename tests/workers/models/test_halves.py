"""AlexNet in two halves: logits and gradients of the grouped net, and where the weights lie."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from workers.models import beside, build, initialise, outline, parts_of, place, whole_shape
from workers.models.halves import HalvedAlexNet
from workers.settings import Activation, DropoutScaling, InitSettings, Layout, ModelSettings

SMALL = ModelSettings(input_size=56, width=0.1, conv1_kernel=5, conv1_stride=2, fc_units=32)
# A large alpha, so that a window that stops at the wrong channel shows.
HALVED = replace(SMALL, lrn_alpha=0.3, lrn_across_halves=False, layout=Layout.halves)
NUM_CLASSES = 7
INIT = InitSettings(bias=0.1)


def drawn(settings: ModelSettings, dtype: torch.dtype = torch.double) -> nn.Module:
    model = build(settings, NUM_CLASSES).to(memory_format=torch.channels_last)
    initialise(model, INIT, seed=5)
    return model.to(dtype)


def photographs(dtype: torch.dtype = torch.double) -> Tensor:
    images = torch.randn(3, 3, 56, 56, generator=torch.Generator().manual_seed(2))
    return images.to(dtype).contiguous(memory_format=torch.channels_last)


def loss_of(logits: Tensor) -> Tensor:
    """Weighs all logits unlike."""
    return (logits * torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)).sum()


def reference(model: ModelSettings, weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """The two-GPU net as the paper's figure 2 has it, by torch's own layers, one column after the other; no dropout."""

    def convolved(name: str, column: int, hidden: Tensor) -> Tensor:
        weight, bias = (weights[f"{name}.{kind}"].chunk(2)[column] for kind in ("weight", "bias"))
        stride, padding = (model.conv1_stride, model.conv1_padding) if name == "conv1" else (1, weight.shape[2] // 2)
        return functional.relu(functional.conv2d(hidden, weight, bias, stride, padding))

    def normalised(hidden: Tensor) -> Tensor:
        if not model.lrn:
            return hidden
        return functional.local_response_norm(hidden, model.lrn_size, model.lrn_alpha, model.lrn_beta, model.lrn_k)

    def pooled(hidden: Tensor) -> Tensor:
        return functional.max_pool2d(hidden, 3, 2)

    columns = [images, images]
    for name in ("conv1", "conv2"):
        columns = [pooled(normalised(convolved(name, column, columns[column]))) for column in range(2)]
    columns = [convolved("conv3", column, torch.cat(columns, 1)) for column in range(2)]
    for name in ("conv4", "conv5"):
        columns = [convolved(name, column, columns[column]) for column in range(2)]
    columns = [pooled(column) for column in columns]
    if model.num_convs == 6:
        columns = [convolved("conv6", column, torch.cat(columns, 1)) for column in range(2)]
    hidden = torch.cat(columns, 1).flatten(1)
    for name in ("fc6", "fc7"):
        hidden = functional.relu(functional.linear(hidden, weights[f"{name}.weight"], weights[f"{name}.bias"]))
    return functional.linear(hidden, weights["fc8.weight"], weights["fc8.bias"])


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: torch.cat([part.grad for part in parts]) for name, parts in parts_of(model).items()}


@pytest.mark.parametrize("num_convs", [5, 6])
@pytest.mark.parametrize("lrn", [True, False])
@pytest.mark.parametrize("layout", Layout)
def test_either_layout_equals_the_paper_s_two_columns_in_float64(num_convs, lrn, layout):
    settings = replace(HALVED, num_convs=num_convs, lrn=lrn, layout=layout, dropout=0.0)
    model, images = drawn(settings), photographs()
    weights = {
        name: torch.cat([part.detach() for part in parts]).requires_grad_() for name, parts in parts_of(model).items()
    }
    logits, expected = model(images), reference(settings, weights, images)
    torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)
    loss_of(logits).backward()
    loss_of(expected).backward()
    for name, gradient in gradients(model).items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradient, weights[name].grad, rtol=1e-12, atol=1e-12)


def outcome(settings: ModelSettings, dtype: torch.dtype = torch.double, training: bool = True) -> dict:
    """The logits and gradients of a fresh net."""
    model = drawn(settings, dtype).train(training)
    torch.manual_seed(4)
    logits = model(photographs(dtype))
    loss_of(logits).backward()
    return {"logits": logits.detach(), **gradients(model)}


def both_layouts(settings: ModelSettings, **how: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    halves, grouped = (replace(settings, layout=layout) for layout in (Layout.halves, Layout.grouped))
    return outcome(halves, **how), outcome(grouped, **how)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("num_convs", [5, 6])
def test_halves_equal_the_grouped_net_to_rounding_in_float32_dropout_and_all(num_convs):
    halves, grouped = both_layouts(replace(HALVED, num_convs=num_convs), dtype=torch.float)
    for name, value in grouped.items():
        torch.testing.assert_close(halves[name], value, rtol=0, atol=1e-5 * value.abs().max().item())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "reading",
    [
        {
            "conv1_padding": 0,
            "conv1_padding_end": 3,
            "lrn1_before_relu": True,
            "within_map_norm": True,
            "dropout_scaling": DropoutScaling.test,
        },
        {"activation": Activation.tanh, "pool_size": 2, "lrn_alpha_over_size": False},
        {"without": ("conv3",), "num_convs": 6},
        {"without": ("conv4", "conv5")},
        {"bottleneck": 15},
    ],
    ids=["release", "tanh", "without-conv3", "without-conv4-conv5", "bottleneck"],
)
def test_halves_equal_the_grouped_net_in_every_reading(reading, training):
    halves, grouped = both_layouts(replace(HALVED, **reading), training=training)
    torch.testing.assert_close(halves, grouped, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("num_convs", [5, 6])
def test_halves_own_half_of_the_published_net_each_and_their_weights_join_to_its_shapes(num_convs):
    settings = ModelSettings(num_convs=num_convs, lrn_across_halves=False, layout=Layout.halves)
    with torch.device("meta"):
        halved, grouped = (build(replace(settings, layout=layout), 1000) for layout in (Layout.halves, Layout.grouped))
    assert isinstance(halved, HalvedAlexNet)
    assert outline(settings, 1000) == outline(replace(settings, layout=Layout.grouped), 1000)
    total = outline(settings, 1000).num_parameters
    assert [sum(one.numel() for one in half.parameters()) for half in halved.halves] == [total // 2] * 2
    joined = {name: whole_shape(parts) for name, parts in parts_of(halved).items()}
    assert list(joined.items()) == [(name, tuple(one.shape)) for name, one in grouped.named_parameters()]


def test_halves_start_from_the_bits_that_the_grouped_net_is_drawn_with():
    halved, grouped = (drawn(replace(HALVED, layout=layout), torch.float) for layout in (Layout.halves, Layout.grouped))
    weights = dict(grouped.named_parameters())
    for name, parts in parts_of(halved).items():
        assert len(parts) == 2
        assert all(torch.equal(part, whole) for part, whole in beside(parts, weights[name]))


@pytest.fixture
def simulated() -> Iterator[None]:
    """Tensors on any device, without content, that refuse to be mixed as on real GPUs; forward alone."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    # Else a real parameter would have to hold simulated data.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield
    torch.__future__.set_overwrite_module_params_on_conversion(before)


@pytest.fixture
def unplaced() -> HalvedAlexNet:
    model = drawn(replace(HALVED, num_convs=6), torch.float)
    assert isinstance(model, HalvedAlexNet)
    return model


@pytest.mark.usefixtures("unplaced", "simulated")
def test_halves_on_two_gpus_never_mix_devices(unplaced, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    place(unplaced, "cuda")
    assert [{str(one.device) for one in half.parameters()} for half in unplaced.halves] == [{"cuda:0"}, {"cuda:1"}]
    images = torch.empty(3, 3, 56, 56, device="cuda:0")
    logits = unplaced(images)
    assert (logits.shape, str(logits.device)) == ((3, NUM_CLASSES), "cuda:0")
    with pytest.raises(RuntimeError, match="same device"):
        unplaced.second(images, unplaced.second.segments[0])


@pytest.mark.usefixtures("unplaced", "simulated")
@pytest.mark.parametrize(("device", "gpus"), [("cpu", 2), ("cuda", 1), ("cuda:1", 2)])
def test_halves_share_a_device(unplaced, monkeypatch, device, gpus):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    place(unplaced, device)
    assert len({one.device for one in unplaced.parameters()}) == 1
    assert str(unplaced.first.device).startswith(device)
