"""Fits the threshold of prediction sets to held-out images (split conformal prediction; Vovk et al. 2005). Pure."""

import math

import numpy as np

from orchestrator.combine import Block, Labels, PredictionSets, place_scores, ranks
from orchestrator.config import CombineConfig


def fit_sets(config: CombineConfig, block: Block, labels: Labels, split: str) -> PredictionSets:
    """Fits to `block` (rows, classes), of images that no fit has seen, and `labels` (rows,) of `split`.

    The set of a new image holds its class with probability `config.coverage` at least; all sets hold all classes where
    too few images are there to tell.
    """
    num_rows = len(labels)
    scores = place_scores(config.sets, block)[np.arange(num_rows), ranks(block, labels)]
    place = math.ceil((num_rows + 1) * config.coverage)
    # Above any score.
    threshold = 1.0 + block.shape[1] if place > num_rows else float(np.partition(scores, place - 1)[place - 1])
    return PredictionSets(config.sets, config.coverage, split, num_rows, math.ceil(threshold * 1e6) / 1e6)
