"""What is drawn for a shard's mixing: shares of a Beta distribution, and boxes by torchvision's rule."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import beta, kstest
from torchvision.transforms import v2

from workers.settings import AugmentationSettings
from workers.training.mixing import draw_mix

SIZE = 16
BOTH = AugmentationSettings(mixup=0.4, cutmix=1.0)


def drawn(augmentation, count=2000, shard=0):
    return [draw_mix(3, step, SIZE, augmentation, shard) for step in range(count)]


def test_nothing_is_mixed_by_default():
    assert drawn(AugmentationSettings(), 3) == [None] * 3


def test_draws_depend_on_seed_update_and_shard_alone():
    draw = partial(draw_mix, size=SIZE, augmentation=BOTH)
    wanted = draw(3, 7, shard=1)
    assert draw(3, 7, shard=1) == wanted
    assert wanted not in (draw(4, 7, shard=1), draw(3, 8, shard=1), draw(3, 7, shard=0))


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixups_shares_are_of_the_beta_distribution(alpha):
    shares = [mix.share for mix in drawn(AugmentationSettings(mixup=alpha))]
    assert kstest(shares, beta(alpha, alpha).cdf).pvalue > 0.01
    assert kstest(shares, beta(3 * alpha, 3 * alpha).cdf).pvalue < 1e-6


def test_with_both_switched_on_each_is_drawn_half_of_the_time():
    cut = sum(mix.box is not None for mix in drawn(BOTH))
    assert abs(cut - 1000) < 3 * math.sqrt(500)


def test_cutmixs_share_is_what_is_left_outside_of_its_box():
    for mix in drawn(AugmentationSettings(cutmix=1.0), 300):
        kept = np.ones((SIZE, SIZE))
        kept[mix.box] = 0
        assert mix.share == pytest.approx(kept.mean())


def test_cutmixs_areas_are_distributed_as_torchvisions():
    """A thousand of each: the areas' means are within three standard errors."""
    images, transform = [torch.empty(1, 3, SIZE, SIZE)], v2.CutMix(alpha=1.0, num_classes=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = [1.0 - transform.make_params(images)["lam_adjusted"] for _ in range(1000)]
    ours = [1.0 - mix.share for mix in drawn(AugmentationSettings(cutmix=1.0), 1000)]
    error = math.sqrt((np.var(ours) + np.var(theirs)) / 1000)
    assert abs(np.mean(ours) - np.mean(theirs)) < 3 * error
