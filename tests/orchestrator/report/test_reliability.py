"""Bins of the reliability diagram, their picture, text and file."""

import csv
import io
import itertools

import numpy as np
import pytest
from PIL import Image
from scored_rows import measure
from whole_run import finish, scores_of, understate

from orchestrator.combine import mean
from orchestrator.config.schema import Calibrator, CombineConfig
from orchestrator.fitting import wilson
from orchestrator.report.figures import reliability_diagram
from orchestrator.report.figures.drawing import COLUMN


def draw(num_rows, num_classes=4, seed=0):
    generator = np.random.default_rng(seed)
    rows = generator.dirichlet(np.ones(num_classes), num_rows).astype(np.float32)
    return rows, (rows.cumsum(axis=1) > generator.random((num_rows, 1))).argmax(axis=1)


def found(rows, labels):
    return measure(mean([rows]), labels).before


def test_bins_hold_all_images_and_are_what_the_calibration_errors_come_from():
    rows, labels = draw(1_000)
    one, sure, right = found(rows, labels), rows.max(axis=1).astype(float), rows.argmax(axis=1) == labels
    for bins, ece in ((one.equal_mass, one.ece_equal_mass), (one.equal_width, one.ece)):
        assert sum(each.num_images for each in bins) == 1_000
        assert all(low.highest <= high.lowest for low, high in itertools.pairwise(bins))
        for each in bins:
            own = (sure >= each.lowest) & (sure <= each.highest)
            assert each.num_images == own.sum()
            assert each.confidence == pytest.approx(sure[own].mean(), abs=1e-12)
            assert each.right == wilson(int(right[own].sum()), int(own.sum()))
        excess = [each.num_images * abs(each.confidence - each.right.estimate) for each in bins]
        assert ece == pytest.approx(sum(excess) / 1_000, abs=1e-12)
    assert len(one.equal_mass) == 15 and {each.num_images for each in one.equal_mass} == {66, 67}
    assert all(each.highest - each.lowest <= 1 / 15 for each in one.equal_width)


@pytest.mark.parametrize("num_rows", [1, 2])
def test_bins_of_few_images_have_one_image_each_and_wide_intervals(num_rows):
    bins = found(*draw(num_rows)).equal_mass
    assert [each.num_images for each in bins] == [1] * num_rows
    assert all(each.right.high - each.right.low > 0.7 for each in bins)


def test_bins_with_a_class_that_is_never_predicted_hold_its_images_as_wrong():
    rows, labels = draw(60)
    rows[:, 3] = 0
    one = found(rows, labels)
    wrong = sum(each.num_images * (1 - each.right.estimate) for each in one.equal_mass)
    assert wrong == pytest.approx((rows.argmax(axis=1) != labels).sum()) and (labels == 3).any()


def test_bins_of_equally_sure_images_are_one_whatever_their_order():
    rows, labels = np.tile(np.float32([0.7, 0.2, 0.1]), (90, 1)), np.repeat([0, 1, 2], 30)
    (only,) = found(rows, labels).equal_mass
    assert (only.num_images, only.right.estimate) == (90, pytest.approx(1 / 3))
    some = np.repeat([[0.7, 0.3], [0.6, 0.4]], 40, axis=0).astype(np.float32)
    answers, turned = np.tile([0, 0, 1, 1, 0], 16), np.random.default_rng(1).permutation(80)
    assert found(some, answers).equal_mass == found(some[turned], answers[turned]).equal_mass


def test_reliability_same_values_same_bytes_in_a_figure_of_one_column():
    one, other = (("a", "the ensemble", found(*draw(number)), "val") for number in (300, 2))
    assert reliability_diagram(*one) == reliability_diagram(*one) != reliability_diagram(*other)
    assert Image.open(io.BytesIO(reliability_diagram(*one).png)).size[0] == round(150 * COLUMN)


@pytest.mark.parametrize("calibration", [pytest.param(Calibrator.none, marks=pytest.mark.slow), Calibrator.temperature])
def test_report_has_the_diagram_as_picture_text_and_numbers(calibration, make_run, tmp_path):
    run = make_run(tmp_path / "run")
    understate(run)
    files = finish(run, CombineConfig(calibration=calibration)).files
    folder, scores = run.paths.report / "figures", scores_of(run)["calibration"]
    assert {folder / "reliability.png", folder / "reliability.csv"} <= set(files)
    with (folder / "reliability.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    states = ["before", "after"] if calibration is Calibrator.temperature else ["before"]
    assert list(dict.fromkeys(line["probabilities"] for line in lines)) == states
    for state in states:
        own = [line for line in lines if (line["probabilities"], line["bins"]) == (state, "equal_mass")]
        told = scores[state]["equal_mass"]
        assert [int(line["images"]) for line in own] == [one["num_images"] for one in told]
        assert [float(line["right"]) for line in own] == pytest.approx(
            [one["right"]["estimate"] for one in told], abs=1e-6
        )
    page = (run.paths.report / "index.html").read_text()
    assert "bins of equally many val images" in page
    first = scores["before"]["equal_mass"][0]
    assert f"{first['confidence']:.0%} sure, {first['right']['estimate']:.0%} right" in page
    assert ("the uncalibrated ensemble" in page) == (len(states) > 1)
