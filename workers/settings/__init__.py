"""Holds the settings of stages and datasets as frozen values that check themselves. They are the schema."""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
