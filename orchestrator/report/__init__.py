"""Scores, table, curves and pictures of a finished run, and the page that holds them.

The only package that imports matplotlib; everything it shows can be rebuilt from files on disk.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
