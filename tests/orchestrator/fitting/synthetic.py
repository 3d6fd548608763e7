"""Draws members' probabilities of synthetic images with known dependence."""

from typing import NamedTuple

import numpy as np

from orchestrator.config import Metric


class Case(NamedTuple):
    num_members: int
    num_classes: int
    metric: Metric
    num_images: int = 1000
    # Members that know much less than the others.
    bad: tuple[int, ...] = ()


CASES = {
    "seven exchangeable members": Case(7, 10, Metric.top1),
    "one much worse": Case(7, 10, Metric.top1, bad=(2,)),
    "forty classes": Case(5, 40, Metric.top1),
    "120 classes by log-loss": Case(5, 120, Metric.log_loss),
}


def draw(case, seed, num_images=None):
    """Returns the members' probabilities (each images × classes, float32), and the labels."""
    generator = np.random.default_rng(seed)
    shape = (num_images or case.num_images, case.num_classes)
    labels = generator.integers(case.num_classes, size=shape[0])
    right = labels[:, None] == np.arange(case.num_classes)
    # What is hard about an image is so for all members.
    hard = generator.normal(size=shape)
    members = []
    for member in range(case.num_members):
        scores = 1.3 * ((0.2 if member in case.bad else 2.2) * right + hard + generator.normal(size=shape))
        rows = np.exp(scores - scores.max(axis=1, keepdims=True))
        members.append((rows / rows.sum(axis=1, keepdims=True)).astype(np.float32))
    return members, labels
