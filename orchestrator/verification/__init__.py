"""Checks a finished run against its records and explains its lines. It changes nothing on disk."""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
