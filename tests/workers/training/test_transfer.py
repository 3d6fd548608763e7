"""Everything frozen but a fresh last layer: the backward pass ends there, and the parameters left are counted."""

import pytest
import torch

from workers.models import build, initialise, outline
from workers.models.layers import MODEL_NAMES
from workers.settings import InitSettings, ModelSettings, OptimizerSettings
from workers.training import build_optimizer, mean_loss

SMALL = ModelSettings(input_size=56, width=0.1, conv1_kernel=5, conv1_stride=2, fc_units=48)


def test_frozen_body_ends_the_backward_pass_at_the_last_layer() -> None:
    model = build(SMALL, 10)
    initialise(model, InitSettings(), seed=1)
    frozen = outline(SMALL, 10).select_all(("body",))
    build_optimizer(model, OptimizerSettings(), frozen, {})
    hidden: dict[str, torch.Tensor] = {}
    model.get_submodule("fc8").register_forward_pre_hook(lambda _, given: hidden.update(last=given[0]))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        logits = model.train()(torch.randn(4, 3, 56, 56))
    mean_loss(logits, torch.zeros(4, dtype=torch.int64)).backward()
    assert not hidden["last"].requires_grad
    # The forward pass keeps for the backward one what the last layer needs, and no activation below.
    assert max(tensor.numel() for tensor in kept) <= max(4, 10) * 48
    assert {name for name, one in model.named_parameters() if one.grad is not None} == {"fc8.weight", "fc8.bias"}


@pytest.mark.parametrize("name", [*MODEL_NAMES, "torchvision/resnet18"])
def test_parameters_left_to_train_are_those_of_the_built_layers_that_are_not_frozen(name: str) -> None:
    settings = ModelSettings(name=name, input_size={"alexnet": 224}.get(name, 32))
    found = outline(settings, 10)
    frozen = found.select_all(("body",))
    with torch.device("meta"):
        model = build(settings, 10)
    build_optimizer(model, OptimizerSettings(), frozen, {})
    built = sum(one.numel() for one in model.parameters() if one.requires_grad)
    assert found.num_trained(frozen) == built < found.num_parameters
    assert found.num_trained(()) == found.num_parameters
