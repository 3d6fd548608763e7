"""Predictions of a trained member: ten crops of each image, averaged.

It reads a finished stage's weights and writes one file of probabilities a split.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
