"""Predictions of a trained member: ten crops of each image, averaged.

It reads a finished stage's weights and writes one file of probabilities a split.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
