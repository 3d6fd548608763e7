"""Draws the report's figures from values. It is the only package that imports matplotlib, when it draws."""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
