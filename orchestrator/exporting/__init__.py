"""Writes the finished ensemble as a folder that needs no Septet. It refuses what no graph can hold."""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
