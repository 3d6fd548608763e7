"""A model as numbers: names of layers, and what stands for several of them."""

from workers.models import outline
from workers.settings import ModelSettings

FULL = outline(ModelSettings(), 1000)


def test_neurons_at_the_true_size_equal_the_published_count() -> None:
    assert FULL.num_neurons == 659_272 == sum((290_400, 186_624, 64_896, 64_896, 43_264, 4096, 4096, 1000))


def test_select_knows_layers_head_and_body_and_nothing_else() -> None:
    assert FULL.select("conv3") == ("conv3",)
    assert FULL.select("head") == ("fc8",)
    assert FULL.select("body") == ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")
    assert FULL.select("conv") == () == FULL.select("conv7")
    assert FULL.select_all(("body", "head")) == set(FULL.layers)


def test_factors_the_narrower_name_counts_whatever_the_order() -> None:
    for named in ({"body": 0.1, "conv1": 0.01}, {"conv1": 0.01, "body": 0.1}):
        factors = FULL.factors(named)
        assert factors["conv1"] == 0.01
        assert factors["conv2"] == 0.1 == factors["fc7"]
        assert "fc8" not in factors
