"""Predicts a user's images with the finished ensemble of a run, and writes what it finds (`septet predict`)."""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
