"""Optimizers by name: torch's own arguments, and one line for what torch would refuse or ignore."""

import inspect

import pytest
import torch

from workers.errors import ConfigError
from workers.settings import OptimizerSettings
from workers.training.first_order import FUSED, arguments, check_optimizer, optimizer_class

NAMES = (
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "asgd",
    "nadam",
    "radam",
    "rmsprop",
    "rprop",
    "sgd",
)


def test_every_optimizer_of_torch_is_taken_or_refused_with_a_reason():
    every = {name for name in dir(torch.optim) if inspect.isclass(getattr(torch.optim, name))} - {"Optimizer"}
    refused = set()
    for name in every:
        try:
            assert optimizer_class(name.lower()).__name__ == name
        except ConfigError as error:
            assert "gradients" in str(error) or "matrices" in str(error) or "several times" in str(error)
            refused.add(name)
    assert refused == {"LBFGS", "Muon", "SparseAdam"}


@pytest.mark.parametrize("name", NAMES)
def test_defaults_of_torch_are_taken_as_arguments(name):
    given = {key: list(value) if isinstance(value, tuple) else value for key, value in arguments(name).items()}
    check_optimizer(OptimizerSettings(name=name, weight_decay=0.0, args=given))
    assert not {"params", "lr", "weight_decay", "fused", "foreach", "maximize"} & set(given)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"name": "adamx"}, "optimizer.name=adamx: no such optimizer; did you mean adamax? (known: adadelta, "),
        ({"name": "AdamW"}, "optimizer.name=AdamW: no such optimizer; did you mean adamw?"),
        ({"name": "lbfgs"}, "optimizer.name=lbfgs: it computes the loss several times in an update; choose one of "),
        (
            {"args": {"beta": [0.9, 0.9]}},
            "optimizer.args.beta: adamw takes no such argument; did you mean betas? (known",
        ),
        ({"args": {"fused": False}}, "optimizer.args.fused: adamw takes no such argument; known: amsgrad, betas, eps"),
        ({"args": {"betas": [0.9]}}, "optimizer.args.betas=[0.9]: give a value like [0.9, 0.999]"),
        ({"args": {"betas": [0.9, True]}}, "optimizer.args.betas=[0.9, true]: give a value like [0.9, 0.999]"),
        ({"args": {"eps": "small"}}, "optimizer.args.eps=small: give a value like 1e-08"),
        ({"args": {"amsgrad": 1}}, "optimizer.args.amsgrad=1: give a value like false"),
        ({"args": {"eps": -1.0}}, "optimizer.args: adamw refuses them (Invalid epsilon value: -1.0)"),
        (
            {"name": "sgd", "args": {"betas": [0.9, 0.9]}},
            "optimizer.args.betas: sgd takes no such argument; known: damp",
        ),
        ({"name": "sgd", "nesterov": True, "args": {"dampening": 0.1}}, "optimizer.args: sgd refuses them (Nesterov"),
        ({"name": "rprop"}, "optimizer.weight_decay=0.0005: rprop decays no weights; give optimizer.weight_decay=0"),
    ],
)
def test_what_torch_would_refuse_or_ignore_has_its_line(settings, line):
    with pytest.raises(ConfigError) as caught:
        check_optimizer(OptimizerSettings(**{"name": "adamw", **settings}))
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)


def test_plain_sgd_is_checked_without_torch(monkeypatch):
    monkeypatch.setattr("workers.training.first_order.optimizer_class", None)
    check_optimizer(OptimizerSettings())


def test_optimizers_that_torch_fuses_are_known():
    made = {name: optimizer_class(name) for name in NAMES}
    assert tuple(name for name, one in made.items() if "fused" in inspect.signature(one).parameters) == FUSED
