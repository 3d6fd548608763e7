"""Members of folds are put together to one voter, and a voter's part is shared by its members."""

import numpy as np

from orchestrator.combine.averaging import Combination, Stacking
from orchestrator.combine.out_of_fold import OutOfFold, regrouped
from orchestrator.config.schema import CombineMethod


def test_assembled_rows_are_those_of_their_members_in_any_block():
    generator = np.random.default_rng(3)
    every = generator.random((2, 23, 4), dtype=np.float32)
    folds = np.stack([generator.permutation(23) % 3, generator.permutation(23) % 3])
    rows = [np.flatnonzero(folds[repeat] == number) for repeat in (0, 1) for number in range(3)]
    members = [every[place // 3][own] for place, own in enumerate(rows)]
    voter = OutOfFold(members, rows, 23)
    wanted = every.mean(axis=0)
    assert voter.shape == (23, 4)
    for start, stop in [(0, 23), (5, 9), (22, 23), (7, 7)]:
        np.testing.assert_allclose(voter[start:stop], wanted[start:stop], rtol=1e-6)


def test_weight_of_a_voter_is_the_sum_of_its_members_and_back():
    stacking = Stacking((((1.0, 2.0), (3.0, 4.0)), ((5.0, 6.0), (7.0, 8.0))), (0.0, 0.0))
    voters = Combination(CombineMethod.stacked, (0.75, 0.25), stacking)
    members = regrouped(voters, [{0: 0.5}, {1: 0.5}, {0: 0.5}, {1: 0.5}])
    assert members.weights == (0.375, 0.125, 0.375, 0.125)
    assert regrouped(members, [{0: 1, 2: 1}, {1: 1, 3: 1}]) == Combination(
        CombineMethod.stacked, (0.75, 0.25), Stacking(([[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]), (0.0, 0.0))
    )
