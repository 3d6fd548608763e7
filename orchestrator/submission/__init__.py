"""Writes, reads and checks the submission and its manifest. One rename replaces both."""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
