"""`plan` says what changing images costs, as it was measured."""

import pytest

from orchestrator.config.composition import compose
from orchestrator.inputs import survey_all
from orchestrator.placement import augmentation_line, choice
from orchestrator.plan import make_plan, make_report
from workers import throughput
from workers.protocol import Numerics
from workers.settings import AugmentationSettings, Policy
from workers.throughput import measure


def planned(*overrides):
    config = compose(["ensemble=five", *overrides])
    return make_plan(config, survey_all(config))


@pytest.fixture
def costly(monkeypatch):
    """Two milliseconds an image, where there is anything to do."""
    cost = lambda augmentation, side: 0.002 * augmentation.changes_images  # noqa: E731
    monkeypatch.setattr(throughput, "drawing_seconds", cost, raising=False)


def test_line_gives_milliseconds_and_the_share_of_the_step(costly):
    plan = planned("augmentation=modern")
    rates = {stage.ref: 100.0 for stage in plan.stages}
    line = augmentation_line(plan, rates, Numerics())
    assert line == "2 ms of a CPU an image, 20% of the step of base1/train"
    on_gpu = augmentation_line(plan, rates, Numerics(threads=4, device="cuda"))
    assert on_gpu == "2 ms of a CPU an image, beside the step: 4 threads draw at most 2,000 images/s"
    report = make_report(plan, compose([]).cluster, 1, rates, "placed", line)
    assert f"\nplacement: placed\naugmentation: {line}\n" in report.to_text()
    assert report.to_json()["augmentation"] == line


def test_line_is_left_out_where_images_are_only_cut_and_reflected(costly):
    plan = planned()
    rates = {stage.ref: 100.0 for stage in plan.stages}
    assert augmentation_line(plan, rates, Numerics()) == ""
    assert "augmentation:" not in make_report(plan, compose([]).cluster, 1, rates).to_text()


def test_stages_that_differ_in_a_policy_are_measured_apart():
    kinds = [choice.kind_of(planned(*each).stages[0]) for each in ([], ["augmentation.colour_std=0.2"])]
    assert kinds[0] == kinds[1] != choice.kind_of(planned("augmentation=modern").stages[0])


def test_drawing_is_part_of_a_measured_step_on_a_cpu(monkeypatch):
    recipe = planned("augmentation=modern").stages[0].recipe
    drawn = []
    monkeypatch.setattr(measure.Transforms, "fill", lambda self, crops, *given: drawn.append(len(crops)))
    steps = measure.TimedSteps(recipe, 10, Numerics(), batch_size=2)
    before = len(drawn)
    assert steps.images_per_second(0.0) > 0
    assert drawn[before:] == [2]


def test_seconds_of_drawing_are_those_of_its_transforms():
    assert measure.drawing_seconds(AugmentationSettings(), 32) == 0
    assert 1e-5 < measure.drawing_seconds(AugmentationSettings(policy=Policy.randaugment), 32) < 1
