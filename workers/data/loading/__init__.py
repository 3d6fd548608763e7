"""Batches for training and evaluation: order, crops, reflections and colour as functions of seed, epoch and index.

Images stay uint8 in the mapped store until a batch needs them.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
