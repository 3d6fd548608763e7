"""Properties of the combined probabilities."""

import itertools

import numpy as np
import pytest
from hypothesis import given, strategies as st

from orchestrator.combine import averaging, rows as probabilities, weights as weight_search
from orchestrator.combine.averaging import Combination, Combined, equal, mean
from orchestrator.config.schema import CombineMethod
from orchestrator.report.scores import score


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
@pytest.mark.parametrize("method", list(CombineMethod))
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
        if combination.method is CombineMethod.geometric:
            values = np.log(np.maximum(values, probabilities.SMALLEST_PROBABILITY))
        total += weight * values
    if combination.method is CombineMethod.geometric:
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


def num_wrong(members, weights, labels, k):
    combined = Combined([member.astype(np.float64) for member in members], Combination(CombineMethod.weighted, weights))
    return int((probabilities.ranks(combined[:], labels) >= k).sum())


@given(seed=st.integers(0, 10_000), num_classes=st.sampled_from([4, 10, 11, 30]))
def test_find_weights_any_members_never_worse_than_mean(seed, num_classes):
    members = draw_members(seed, num_classes=num_classes)
    labels = draw_labels(seed, members)
    weights = weight_search.find_weights(members, labels)
    k = 1 if num_classes <= 10 else 5
    assert sum(weights) == pytest.approx(1)
    assert min(weights) >= 0
    assert num_wrong(members, weights, labels, k) <= num_wrong(members, (1 / 3,) * 3, labels, k)


def test_find_weights_one_good_member_among_noise_gets_the_most():
    members = draw_members(5, num_members=2, num_rows=300, num_classes=8)
    labels = draw_labels(5, members)
    good = np.full_like(members[0], 0.7 / 7)
    good[np.arange(300), labels] = 0.3
    weights = weight_search.find_weights([members[0], good, members[1]], labels)
    assert weights[1] == max(weights)
    assert weights[1] > 1 / 3


def test_find_weights_equal_members_stays_at_the_mean():
    (member,) = draw_members(6, num_members=1)
    assert weight_search.find_weights([member] * 4, draw_labels(6, [member])) == (0.25,) * 4


@given(seed=st.integers(0, 10_000), twentieths=st.lists(st.integers(0, 20), min_size=3, max_size=3).filter(any))
def test_num_errors_any_weights_equals_that_of_combined_rows(seed, twentieths):
    members = draw_members(seed)
    labels = draw_labels(seed, members)
    rivals = weight_search.find_rivals(members, labels)
    weights = tuple(count / sum(twentieths) for count in twentieths)
    counted = weight_search.num_errors(rivals, np.array(twentieths), 5)
    assert counted == num_wrong(members, weights, labels, 5)


def test_find_rivals_small_budget_thins_evenly():
    members = draw_members(7, num_rows=400)
    rivals = weight_search.find_rivals(members, draw_labels(7, members), max_differences=3000)
    assert rivals.differences.size <= 3000
    kept = np.unique(rivals.row)
    assert len(kept) > 20
    assert set(np.diff(kept)) <= set(range(1, 20))
    assert kept.max() > 350
