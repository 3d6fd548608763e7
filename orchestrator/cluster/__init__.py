"""Joins or starts Ray and runs members as actors. Other packages get outcomes that are plain values."""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
