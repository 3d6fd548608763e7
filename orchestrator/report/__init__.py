"""Writes the report of a finished run: scores, table, curves, pictures and the page that holds them.

The only package that knows matplotlib. All content comes from files on disk.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
