"""What a member is worth: sums, copies, noise, names, curves, drawn orders, and rows that are thinned."""

import math

import numpy as np
import pytest
from synthetic import Case, draw

from orchestrator.config import Metric
from orchestrator.fitting import member_worth, worth as core
from orchestrator.fitting.metrics import loss, value

MEANS = [Metric.top1, Metric.top5, Metric.log_loss, Metric.brier]


def make(num_members=5, num_classes=8, num_images=200, seed=0, bad=()):
    members, labels = draw(Case(num_members, num_classes, Metric.top1, bad=bad), seed, num_images)
    return {f"m{number}": member for number, member in enumerate(members)}, labels


def loss_of(metric, members, labels):
    rows = [one.astype(np.float64) for one in members.values()]
    return loss(metric, value(metric, np.mean(rows, axis=0), labels))


def uniform(members):
    shape = next(iter(members.values())).shape
    return {"uniform": np.full(shape, 1 / shape[1])}


def shapley(found):
    return {name: one.shapley.estimate for name, one in found.members.items()}


@pytest.mark.parametrize("metric", list(Metric))
def test_shapley_values_sum_to_the_gain_over_uniform_probabilities(metric):
    members, labels = make()
    for most_exact in (10, 2):
        found = member_worth(members, labels, metric, most_exact)
        whole, empty = loss_of(metric, members, labels), loss_of(metric, uniform(members), labels)
        assert (found.loss, found.empty) == pytest.approx((whole, empty), abs=1e-12)
        assert math.fsum(shapley(found).values()) == pytest.approx(empty - whole, abs=1e-12)


@pytest.mark.parametrize("metric", [Metric.top1, Metric.top5, Metric.log_loss, Metric.brier, Metric.macro_f1])
def test_shapley_values_are_those_of_all_orders_one_by_one(metric):
    members, labels = make(3, 7, 40)
    named = list(members)
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    wanted = dict.fromkeys(named, 0.0)
    for order in orders:
        before = loss_of(metric, uniform(members), labels)
        for size in range(3):
            now = loss_of(metric, {named[one]: members[named[one]] for one in sorted(order[: size + 1])}, labels)
            wanted[named[order[size]]] += (before - now) / 6
            before = now
    found = member_worth(members, labels, metric)
    assert shapley(found) == pytest.approx(wanted, abs=1e-12)
    for name, one in found.members.items():
        others = {other: rows for other, rows in members.items() if other != name}
        rise = loss_of(metric, others, labels) - loss_of(metric, members, labels)
        assert one.without.estimate == pytest.approx(rise, abs=1e-12)


@pytest.mark.parametrize("metric", MEANS)
def test_a_copy_shares_the_worth_equally(metric):
    members, labels = make(4)
    found = shapley(member_worth({**members, "copy": members["m1"].copy()}, labels, metric))
    assert found["copy"] == pytest.approx(found["m1"], abs=1e-12)
    assert found["copy"] < shapley(member_worth(members, labels, metric))["m1"]


@pytest.mark.parametrize("metric", MEANS)
def test_noise_has_no_worth_and_can_go(metric):
    members, labels = make(4, num_images=2000)
    noise = np.random.default_rng(1).dirichlet(np.ones(8), 2000).astype(np.float32)
    found = member_worth({**members, "noise": noise}, labels, metric)
    worth = shapley(found)
    assert worth["noise"] < 0.1 * min(value for name, value in worth.items() if name != "noise")
    assert found.members["noise"].without.low <= 0
    if metric is not Metric.top5:
        assert all(one.without.low > 0 for name, one in found.members.items() if name != "noise")


@pytest.mark.parametrize("metric", list(Metric))
def test_names_and_order_of_members_change_no_value(metric):
    members, labels = make()
    found = member_worth(members, labels, metric)
    turned = member_worth({f"{name} again": members[name] for name in reversed(members)}, labels, metric)
    assert {name.split()[0]: value for name, value in shapley(turned).items()} == pytest.approx(
        shapley(found), abs=1e-12
    )
    if metric in (Metric.log_loss, Metric.brier):
        # Of equal errors the first member is added.
        assert [name.split()[0] for name in turned.order] == list(found.order)
    assert turned.mean_curve == pytest.approx(found.mean_curve, abs=1e-12)
    bounds = [(one.shapley.low, one.without.high) for one in found.members.values()]
    again = [(one.shapley.low, one.without.high) for one in reversed(turned.members.values())]
    np.testing.assert_allclose(bounds, again, atol=1e-9)


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("most_exact", [10, 2])
def test_curves_begin_at_one_member_and_end_at_all(metric, most_exact):
    members, labels = make()
    found = member_worth(members, labels, metric, most_exact)
    singles = {name: loss_of(metric, {name: rows}, labels) for name, rows in members.items()}
    assert found.mean_curve[0] == pytest.approx(np.mean(list(singles.values())), abs=1e-12)
    assert found.best_curve[0] == pytest.approx(min(singles.values()), abs=1e-12)
    whole = loss_of(metric, members, labels)
    assert (found.mean_curve[-1], found.best_curve[-1]) == pytest.approx((whole, whole), abs=1e-12)
    pair = {name: members[name] for name in found.order[:2]}
    assert found.best_curve[1] == pytest.approx(loss_of(metric, pair, labels), abs=1e-12)


@pytest.mark.parametrize("metric", [*MEANS, Metric.macro_f1])
def test_drawn_orders_agree_with_all_orders_within_their_error(metric):
    members, labels = make(8)
    exact, drawn = (member_worth(members, labels, metric, most) for most in (10, 2))
    assert (exact.num_orders, exact.sampling_error, drawn.num_orders) == (None, 0.0, 80)
    assert 0 < drawn.sampling_error < 0.1 * max(shapley(exact).values())
    assert shapley(drawn) == pytest.approx(shapley(exact), abs=4 * drawn.sampling_error)
    assert shapley(drawn) != pytest.approx(shapley(exact), abs=1e-9)
    for name, one in exact.members.items():
        assert drawn.members[name].without.estimate == pytest.approx(one.without.estimate, abs=1e-12)


def test_equal_probabilities_go_to_the_lower_class_as_in_a_submission():
    coarse = np.random.default_rng(2).integers(1, 4, size=(3, 300, 6)).astype(np.float32) / 16
    labels = np.random.default_rng(3).integers(6, size=300)
    members = {str(place): rows for place, rows in enumerate(coarse)}
    for metric in (Metric.top1, Metric.top5):
        assert member_worth(members, labels, metric).loss == loss_of(metric, members, labels)


def test_intervals_hold_the_worth_on_many_more_images():
    members, labels = make(3, num_images=6_000)
    true = shapley(member_worth(members, labels, Metric.log_loss))
    held = []
    for start in range(0, 6_000, 200):
        part = {name: rows[start : start + 200] for name, rows in members.items()}
        found = member_worth(part, labels[start : start + 200], Metric.log_loss).members
        held += [one.shapley.low <= true[name] <= one.shapley.high for name, one in found.items()]
    assert 0.88 <= np.mean(held) <= 1


def test_no_interval_of_a_metric_that_is_no_mean_over_images():
    members, labels = make(3)
    found = member_worth(members, labels, Metric.macro_f1).members["m0"]
    assert (found.without.high, found.shapley.low) == (math.inf, -math.inf)


@pytest.mark.parametrize("metric", [Metric.top1, Metric.brier, Metric.macro_f1])
def test_rows_are_thinned_evenly_above_the_budget(monkeypatch, metric):
    members, labels = make(3, num_images=400)
    monkeypatch.setattr(core, "_MOST_HELD", 3 * 400 * (8 if metric is Metric.macro_f1 else 1) * core._DEAR // 16)
    monkeypatch.setattr(core, "_BLOCK_ELEMENTS", 600)
    found = member_worth(members, labels, metric)
    assert 10 <= found.num_images < 400
    stride = -(-400 // found.num_images)
    some = {name: rows[::stride] for name, rows in members.items()}
    assert len(labels[::stride]) == found.num_images
    assert found.loss == pytest.approx(loss_of(metric, some, labels[::stride]), abs=1e-12)


def test_many_blocks_equal_one(monkeypatch):
    members, labels = make(3)
    whole = member_worth(members, labels, Metric.top1)
    monkeypatch.setattr(core, "_BLOCK_ELEMENTS", 4 * 3 * 200)
    assert shapley(member_worth(members, labels, Metric.top1)) == pytest.approx(shapley(whole), abs=1e-12)


def test_one_member_and_a_metric_without_a_value_have_no_worth():
    members, labels = make(2)
    assert member_worth({"m0": members["m0"]}, labels, Metric.top1) is None
    assert member_worth(members, np.zeros_like(labels), Metric.auc) is None


@pytest.mark.parametrize("num", [11, 64, 65, 150])
def test_steps_of_drawn_orders_do_not_grow_with_the_square_of_members(num):
    steps = core._drawn_steps(num)
    assert len(steps.member) <= core.NUM_ROUNDS * core._MOST_STEPS
    assert np.bincount(steps.member).tolist() == [steps.num_orders] * num
    if num <= 64:
        assert steps.num_orders == core.NUM_ROUNDS * num


def test_worths_of_many_members_sum_to_the_gain_and_say_how_many_orders_were_drawn():
    members, labels = make(70, num_images=60)
    found = member_worth(members, labels, Metric.log_loss)
    assert math.fsum(shapley(found).values()) == pytest.approx(found.empty - found.loss, abs=1e-9)
    assert found.num_orders == core.NUM_ROUNDS * (core._MOST_STEPS // 70) and found.sampling_error > 0
