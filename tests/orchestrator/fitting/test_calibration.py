"""Calibration repairs what is wrong, leaves what is right, and sets hold the right class as often as they say."""

from dataclasses import replace

import numpy as np
import pytest

from orchestrator.combine import Combined, combine_block, corrected, equal, mean
from orchestrator.config import Calibrator, CombineConfig, CombineMethod, Metric, SetScore
from orchestrator.fitting import calibrate, choose, uncertainties
from orchestrator.fitting.calibration import fit_calibration
from orchestrator.fitting.choice import fold_of_rows, out_of_fold
from orchestrator.fitting.metrics import value
from orchestrator.report.reliability import measure

FITTED = [one for one in Calibrator if one is not Calibrator.none]
NUM_ROWS = 10_000


def draw(seed, sharpness=1.0, num_rows=2_000, num_members=1, num_classes=6):
    """Labels drawn from the very probabilities of a row, which members then state `sharpness` times as surely."""
    generator = np.random.default_rng(seed)
    logits = 1.5 * generator.normal(size=(num_rows, num_classes))
    true = np.exp(logits)
    true /= true.sum(axis=1, keepdims=True)
    labels = (true.cumsum(axis=1) > generator.random((num_rows, 1))).argmax(axis=1)
    members = []
    for member in range(num_members):
        stated = np.exp(sharpness * (logits + 0.3 * (member > 0) * generator.normal(size=logits.shape)))
        members.append((stated / stated.sum(axis=1, keepdims=True)).astype(np.float32))
    return members, labels


def fitted(kind, members, labels, **more):
    plain = equal(CombineMethod.mean, len(members))
    return calibrate(plain, CombineConfig(calibration=kind, **more), members, labels, "dev")


@pytest.mark.parametrize("kind", FITTED)
def test_calibrate_over_confident_ensemble_is_repaired_on_untouched_rows(kind):
    found = fitted(kind, *draw(1, sharpness=4))
    assert found.calibration.is_taken and found.calibration.after < found.calibration.before
    members, labels = draw(2, sharpness=4, num_rows=NUM_ROWS)
    scores = measure(Combined(members, found), labels)
    assert scores.after.nll < scores.before.nll - 0.1
    assert scores.after.ece < 0.05 < 0.3 < scores.before.ece
    assert scores.after.ece_equal_mass < 0.05 < 0.3 < scores.before.ece_equal_mass
    assert scores.after.brier < scores.before.brier


@pytest.mark.parametrize("kind", FITTED)
def test_calibrate_calibrated_ensemble_is_left_alone(kind):
    members, labels = draw(3)
    found = fitted(kind, members, labels)
    assert not found.calibration.is_taken
    np.testing.assert_array_equal(Combined(members, found)[:], mean(members)[:])
    assert "the uncalibrated average is kept" in found.calibration.line()


def test_calibrate_temperature_is_what_the_members_were_sharpened_by():
    assert fitted(Calibrator.temperature, *draw(4, sharpness=3, num_rows=NUM_ROWS)).calibration.numbers == [
        pytest.approx(3, abs=0.1)
    ]


@pytest.mark.parametrize("temperature", [0.05, 0.7, 3.3, 20])
def test_corrected_temperature_keeps_the_first_guess_of_every_row(temperature):
    block = np.random.default_rng(5).dirichlet(np.ones(5), 2_000).astype(np.float32)
    # One rounding apart, so that heat makes them equal; then true ties and zeros.
    block[:500, 3] = np.nextafter(block[:500].max(axis=1), np.float32(2))
    block[500:600] = [0.4, 0, 0.4, 0.2, 0]
    hot = corrected(Calibrator.temperature, [temperature], block)
    np.testing.assert_array_equal(hot.argmax(axis=1), block.argmax(axis=1))
    np.testing.assert_allclose(hot.sum(axis=1), 1, rtol=1e-5)


def test_corrected_vector_is_a_factor_and_a_constant_and_isotonic_a_curve():
    block = np.array([[0.2, 0.8], [0.6, 0.4]], np.float32)
    wanted = block ** np.array([2, 1]) * np.exp([0, 1])
    found = corrected(Calibrator.vector, [[2.0, 1.0], [0.0, 1.0]], block)
    np.testing.assert_allclose(found, wanted / wanted.sum(axis=1, keepdims=True), rtol=1e-6)
    curves = [[[0.0, 1.0], [0.0, 0.5]], [[0.0, 1.0], [0.5, 1.0]]]
    np.testing.assert_allclose(corrected(Calibrator.isotonic, curves, block), [[0.1, 0.9], [0.3, 0.7]], rtol=1e-6)


def test_fit_calibration_is_judged_on_rows_that_its_fits_have_not_seen():
    """On noise, curves of 60 rows look good where they were fitted; a judge that looked there would take them."""
    members, labels = draw(6, num_rows=60)
    found, block = fit_calibration(Calibrator.isotonic, members[0], labels, fold_of_rows(len(labels)), "dev")
    own = corrected(found.asked, found.numbers, members[0])
    assert value(Metric.log_loss, own, labels) < found.before < found.after
    assert not found.is_taken
    np.testing.assert_array_equal(block, members[0])


@pytest.mark.parametrize("num_rows", [1, 3, 7])
@pytest.mark.parametrize("kind", FITTED)
def test_calibrate_few_rows_end_in_a_calibration(kind, num_rows):
    members, labels = draw(7, num_rows=num_rows)
    found = fitted(kind, members, labels)
    assert np.isfinite(Combined(members, found)[:]).all()
    # Too few to tell, so all classes.
    assert (found.sets.sizes(members[0]) == 6).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Calibrator.none, Calibrator.temperature])
@pytest.mark.parametrize("sets", SetScore)
@pytest.mark.parametrize("coverage", [0.8, 0.95])
def test_sets_cover_untouched_rows_as_often_as_they_say(kind, sets, coverage):
    found = fitted(kind, *draw(8, sharpness=2, num_rows=NUM_ROWS), sets=sets, coverage=coverage)
    members, labels = draw(9, sharpness=2, num_rows=NUM_ROWS)
    scores = measure(Combined(members, found), labels)
    covered = (scores.after or scores.before).coverage
    # Five standard errors of both samples.
    assert covered == pytest.approx(coverage, abs=5 * np.sqrt(2 * coverage * (1 - coverage) / NUM_ROWS))
    assert 1 < (scores.after or scores.before).set_size < 6


def test_sets_of_a_stacked_fit_are_honest_since_its_own_rows_would_flatter_it():
    members, labels = draw(10, sharpness=3, num_rows=400, num_members=4, num_classes=8)
    stacked = choose(CombineMethod.stacked, members, labels, Metric.log_loss, "dev")
    assert stacked.fit.is_taken
    block, folds = out_of_fold(stacked, members, labels, 1)
    own = combine_block(stacked, members)
    assert value(Metric.log_loss, block, labels) > value(Metric.log_loss, own, labels)
    strided, some = out_of_fold(stacked, members, labels, 3)
    np.testing.assert_array_equal(strided, block[::3])
    np.testing.assert_array_equal(some, folds[::3])


def test_sets_always_hold_the_first_guess_and_grow_with_the_coverage():
    members, labels = draw(11)
    sizes = [fitted(Calibrator.none, members, labels, coverage=one).sets.sizes(members[0]) for one in (0.1, 0.5, 0.99)]
    assert all((one >= 1).all() for one in sizes)
    assert (sizes[0] <= sizes[1]).all() and (sizes[1] <= sizes[2]).all()


def test_measure_calibrated_rows_are_within_their_binomial_bounds():
    members, labels = draw(12, num_rows=NUM_ROWS)
    found = measure(mean(members), labels).before
    # Each bin's accuracy is off by its binomial error: E|x| = sqrt(2/π) σ, summed over 15 bins.
    assert found.ece < 1.5 * np.sqrt(2 / np.pi * 15 * 0.25 / NUM_ROWS)
    assert found.ece_equal_mass < 1.5 * np.sqrt(2 / np.pi * 15 * 0.25 / NUM_ROWS)
    expected = 1 - (members[0].astype(float) ** 2).sum(axis=1)
    assert found.brier == pytest.approx(expected.mean(), abs=5 * 0.5 / np.sqrt(NUM_ROWS))
    assert found.brier == pytest.approx(value(Metric.brier, members[0], labels), abs=1e-9)
    assert found.nll == pytest.approx(value(Metric.log_loss, members[0], labels), abs=1e-9)


def test_measure_equal_mass_bins_hold_equally_many_rows():
    sure, labels = np.repeat([True, False], [30, 15]), np.repeat([0, 1], [30, 15])
    rows = np.where(sure[:, None], [0.62, 0.38], [0.61, 0.39]).astype(np.float32)
    # The surer ones are right, the others wrong; both are in one bin of equal width, where they make up for each other.
    found = measure(mean([rows]), labels).before
    assert found.ece_equal_mass == pytest.approx((30 * 0.38 + 15 * 0.61) / 45)
    assert found.ece == pytest.approx(abs(30 * 0.38 - 15 * 0.61) / 45)


def test_uncertainties_equal_members_share_all_and_others_something():
    members, _ = draw(13, num_members=3, num_rows=300)
    combination = equal(CombineMethod.mean, 3)
    alike = uncertainties(combination, members[0], [members[0]] * 3)
    assert {one.mutual_information for one in alike} == {0.0}
    block = mean(members)[:]
    found = uncertainties(combination, block, members)
    assert all(one.mutual_information >= 0 and one.classes is None for one in found)
    assert max(one.mutual_information for one in found) > 0.01
    wanted = -(block.astype(float) * np.log(block)).sum(axis=1)
    assert [one.entropy for one in found] == pytest.approx(wanted, abs=1e-6)
    apart = uncertainties(equal(CombineMethod.mean, 2), np.full((1, 2), 0.5), [np.eye(2)[:1], np.eye(2)[1:]])
    assert apart[0].mutual_information == pytest.approx(np.log(2), abs=1e-6)


def test_uncertainties_a_member_of_weight_zero_does_not_count():
    members, _ = draw(14, num_members=2, num_rows=50)
    alone = replace(equal(CombineMethod.mean, 2), weights=(1.0, 0.0))
    assert {one.mutual_information for one in uncertainties(alone, members[0], members)} == {0.0}
