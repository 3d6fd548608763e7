"""Composes, checks and resolves the configuration. It is the only package that imports Hydra."""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
