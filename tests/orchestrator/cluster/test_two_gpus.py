"""The halved layout as a configuration: what it needs, what is refused, and that a plan's counts do not see it."""

import pytest

from orchestrator.config.composition import compose
from orchestrator.inputs import survey_all
from orchestrator.plan.build import make_plan
from workers.errors import ConfigError
from workers.models.outlines import outline
from workers.settings.model import Layout, ModelSettings

HALVES = ("model.layout=halves", "model.lrn_across_halves=false")


def planned(*overrides):
    config = compose(overrides)
    return make_plan(config, survey_all(config))


def test_two_gpus_is_the_2012_network_in_halves():
    model = compose(["model=alexnet_two_gpus"]).members["base1"].stages["train"].model
    assert model == ModelSettings(layout=Layout.halves, lrn_across_halves=False)
    assert outline(model, 1000) == outline(ModelSettings(), 1000)
    compose(["model.layout=halves", "model.lrn=false"])  # without normalisation there is no window to stop


@pytest.mark.parametrize("gpus", ["0", "2"])
def test_plan_in_halves_has_the_grouped_ones_counts_and_another_hash(gpus):
    halved = planned(*HALVES, f"cluster.gpus_per_member={gpus}")
    grouped = planned("model.lrn_across_halves=false")
    assert halved.hash != grouped.hash
    numbers = [
        [(outline(stage.recipe.model, stage.num_classes), stage.num_updates, stage.seed) for stage in plan.stages]
        for plan in (halved, grouped)
    ]
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize("gpus", ["1", "0.5"])
def test_halves_that_would_share_a_gpu_are_refused_saying_how_many_they_want(gpus):
    with pytest.raises(ConfigError, match=rf"^cluster\.gpus_per_member={gpus}: .*base1/train.*give .*=2"):
        planned(*HALVES, f"cluster.gpus_per_member={gpus}")
    planned(f"cluster.gpus_per_member={gpus}")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("model.lrn_across_halves=true",), r"model\.lrn_across_halves=true: .*give lrn_across_halves=false"),
        (("model.groups=1",), r"model\.groups=1: .*give 2"),
        (("model.fc_units=63",), r"model\.fc_units=63: .*even"),
        (("model.name=other",), r"only alexnet has halves, not other"),
        (("model.layout=halved",), r"model\.layout=halved: no such value; did you mean halves"),
    ],
)
def test_what_does_not_lie_in_halves_is_refused_in_one_line(wrong, message):
    with pytest.raises(ConfigError, match=message) as refusal:
        compose([*HALVES, *wrong])
    assert "\n" not in str(refusal.value)
