"""Exports trained members, combined, as graphs that need no Septet. It has the program that feeds them files."""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
