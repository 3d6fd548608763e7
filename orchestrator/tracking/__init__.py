"""Sends a run's metrics and results to MLflow, which only it imports. One thread sends and repeats."""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
