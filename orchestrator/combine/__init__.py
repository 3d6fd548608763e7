"""Checks the members' stored predictions, reads them in blocks of rows, and combines them into the ensemble's.

Only `predictions` and `absent` read files; the rest takes and returns arrays.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
