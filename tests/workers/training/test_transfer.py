"""Everything frozen but a fresh last layer: what moves, and what is not computed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from stored import read_checkpoint

from workers.models.construction import build, initialise
from workers.models.layers import MODEL_NAMES
from workers.models.outlines import outline
from workers.protocol import StageSpec
from workers.settings.training import InitSettings, ModelSettings, OptimizerSettings
from workers.storage.finished import write_finished
from workers.training.evaluation import mean_loss
from workers.training.optimizer import build_optimizer
from workers.training.stage import run_stage

SMALL = ModelSettings(input_size=56, width=0.1, conv1_kernel=5, conv1_stride=2, fc_units=48)


def test_transfer_trains_the_last_layer_alone_and_keeps_momentum_of_nothing_else(tiny_spec: StageSpec) -> None:
    first = run_stage(tiny_spec, lambda: False)
    write_finished(tiny_spec.stage_dir, "h", first)
    spec = replace(
        tiny_spec,
        stage="transfer",
        stage_dir=tiny_spec.stage_dir.parent / "transfer",
        init_dir=tiny_spec.stage_dir,
        recipe=replace(tiny_spec.recipe, reset=("head",), freeze=("body",)),
    )
    after = read_checkpoint(spec.stage_dir / "checkpoints" / run_stage(spec, lambda: False).checkpoint)
    before = read_checkpoint(tiny_spec.stage_dir / "checkpoints" / first.checkpoint).model
    moved = {name for name in before if not np.array_equal(before[name], after.model[name])}
    assert moved == {"fc8.weight", "fc8.bias"} == set(after.optimizer)


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
