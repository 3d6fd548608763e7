"""Chooses threads, precision and members at once by measurement. The choice is kept, since it changes bits."""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
