"""Writes files that are trusted later: atomic files, checkpoints, fences. Each is synced, then renamed."""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
