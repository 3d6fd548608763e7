"""Answers images over HTTP with a finished ensemble (`septet serve`): what it takes, what it refuses, and batches."""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
