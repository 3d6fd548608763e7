"""Properties of the combined probabilities."""

import itertools

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scored_rows import score

from orchestrator.combine import averaging, rows as probabilities
from orchestrator.combine.averaging import Combination, Combined, Stacking, equal, mean
from orchestrator.config.schema import CombineMethod


def draw_members(seed, num_members=3, num_rows=40, num_classes=12):
    generator = np.random.default_rng(seed)
    return [
        generator.dirichlet(np.full(num_classes, 0.2), size=num_rows).astype(np.float32) for _ in range(num_members)
    ]


def draw_labels(seed, members):
    return np.random.default_rng(seed + 1).integers(0, members[0].shape[1], size=len(members[0]))


@given(seed=st.integers(0, 10_000))
@pytest.mark.parametrize("method", [CombineMethod.mean, CombineMethod.geometric])
def test_combine_any_order_of_members_same_probabilities(method, seed):
    members = draw_members(seed)
    results = [Combined(list(order), equal(method, 3))[:] for order in itertools.permutations(members)]
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=2e-7)


@given(seed=st.integers(0, 10_000), copies=st.integers(1, 9))
@pytest.mark.parametrize("method", [one for one in CombineMethod if one is not CombineMethod.rank])
def test_combine_copies_of_one_member_is_that_member(method, seed, copies):
    (member,) = draw_members(seed, num_members=1)
    combined = Combined([member] * copies, equal(method, copies))[:]
    np.testing.assert_allclose(combined, member, rtol=3e-7, atol=2e-12)


@given(seed=st.integers(0, 10_000))
@pytest.mark.parametrize("method", list(CombineMethod))
def test_combine_any_members_rows_sum_to_one(method, seed):
    weights = np.random.default_rng(seed).dirichlet(np.ones(3))
    combined = Combined(draw_members(seed), Combination(method, tuple(weights)))[:]
    assert combined.dtype == np.float32
    assert (combined >= 0).all()
    np.testing.assert_allclose(combined.sum(axis=1), 1, atol=1e-5)


@given(seed=st.integers(0, 10_000))
def test_mean_ensemble_nll_not_above_mean_of_members(seed):
    members = draw_members(seed)
    labels = draw_labels(seed, members)
    # Jensen's inequality holds for probabilities; the floor inside the NLL is kept out of it.
    members = [np.clip(member, 1e-9, None) for member in members]
    own = [score(member, labels).nll for member in members]
    assert score(mean(members), labels).nll <= np.mean(own) + 1e-6


@pytest.mark.parametrize(
    ("method", "one", "other", "combined"),
    [
        (CombineMethod.mean, [0.9, 0.1], [0.3, 0.7], [0.6, 0.4]),  # of probabilities, not of logits
        (CombineMethod.geometric, [0.9, 0.1], [0.5, 0.5], [0.75, 0.25]),  # renormalised root of the product
        (CombineMethod.geometric, [1, 0], [0, 1], [0.5, 0.5]),  # members that veto each other
    ],
)
def test_combine_known_values(method, one, other, combined):
    found = Combined([np.float32([one]), np.float32([other])], equal(method, 2))[:]
    np.testing.assert_allclose(found, [combined], rtol=1e-6)


def test_combined_slices_equal_the_whole():
    combined = mean(draw_members(3))
    np.testing.assert_array_equal(np.concatenate([combined[:7], combined[7:30], combined[30:]]), combined[:])


def obvious(members, combination):
    """The definition, on whole arrays: float64 in the order given, one rounding to float32."""
    total = np.zeros(members[0].shape)
    for member, weight in zip(members, combination.weights, strict=True):
        values = member.astype(np.float64)
        if combination.method is CombineMethod.rank:
            order = np.argsort(-member, axis=1, kind="stable")
            places = np.argsort(order, axis=1)
            num_classes = member.shape[1]
            values = (num_classes - places) / (num_classes * (num_classes + 1) / 2)
        if combination.method in averaging.OF_LOGS:
            values = np.log(np.maximum(values, probabilities.SMALLEST_PROBABILITY))
        total += weight * values
    if combination.method in averaging.OF_LOGS:
        total = np.exp(total - total.max(axis=1, keepdims=True))
        total /= total.sum(axis=1, keepdims=True)
    return total.astype(np.float32)


@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(1, 9), st.integers(0, 60), st.integers(1, 70)),
    part_elements=st.integers(1, 2000),
    zero=st.booleans(),
)
@pytest.mark.parametrize("method", list(CombineMethod))
def test_combine_any_shape_and_part_same_bits_as_the_definition(method, seed, shape, part_elements, zero):
    num_members, num_rows, num_classes = shape
    members = draw_members(seed, num_members, num_rows, num_classes)
    combination = equal(method, num_members)
    if method is CombineMethod.weighted:
        weights = np.random.default_rng(seed).dirichlet(np.ones(num_members))
        weights[0] = 0 if zero and num_members > 1 else weights[0]
        combination = Combination(method, tuple(weights.tolist()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(averaging, "PART_ELEMENTS", part_elements)
        combined = Combined(members, combination)[:]
    np.testing.assert_array_equal(combined.view(np.uint32), obvious(members, combination).view(np.uint32))


def test_combine_rank_counts_places_and_not_probabilities():
    one, other = np.float32([[0.98, 0.01, 0.01]]), np.float32([[0.3, 0.4, 0.3]])
    # Points 3 2 1 and 2 3 1 of 6: of equal probabilities the first class is ahead.
    found = Combined([one, other], equal(CombineMethod.rank, 2))[:]
    np.testing.assert_allclose(found, [[5 / 12, 5 / 12, 2 / 12]], rtol=1e-6)


def test_combine_stacked_adds_coefficients_times_logarithms_and_constants():
    members = draw_members(9, num_members=2, num_classes=3)
    coefficients = np.random.default_rng(9).normal(size=(2, 3, 3)).round(6)
    stacking = Stacking(tuple(coefficients.tolist()), (0.5, 0.0, -0.25))
    found = Combined(members, Combination(CombineMethod.stacked, (1.0, 1.0), stacking=stacking))[:]
    logs = [np.log(np.maximum(member.astype(np.float64), probabilities.SMALLEST_PROBABILITY)) for member in members]
    scores = logs[0] @ coefficients[0].T + logs[1] @ coefficients[1].T + [0.5, 0.0, -0.25]
    wanted = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_combine_stacked_with_a_coefficient_a_member_of_equal_ones_is_the_geometric_mean():
    members = draw_members(10)
    stacking = Stacking((1 / 3,) * 3, (0.0,) * 12)
    found = Combined(members, Combination(CombineMethod.stacked, (1 / 3,) * 3, stacking=stacking))[:]
    np.testing.assert_allclose(found, Combined(members, equal(CombineMethod.geometric, 3))[:], rtol=1e-6)
