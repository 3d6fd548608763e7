"""Shows progress, live on a terminal and line by line elsewhere. Nothing depends on it."""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
