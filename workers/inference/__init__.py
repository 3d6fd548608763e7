"""Predictions of a trained member: the mean over ten crops of each image.

It reads a finished stage's weights and writes one file of probabilities per split.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
