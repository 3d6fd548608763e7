"""Writes scores, table, curves, pictures and the page. It is the only package that imports matplotlib."""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
