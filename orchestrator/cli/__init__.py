"""Parses the command line and prints results. Every verb calls another package, and nothing is decided here."""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
