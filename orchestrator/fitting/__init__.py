"""Fits and measures ensembles over stored predictions: metrics, intervals. Pure; reads rows in blocks."""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
