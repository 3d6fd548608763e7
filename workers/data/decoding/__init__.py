"""One image file to RGB pixels: which formats are read, what is decided about odd ones, what is refused.

The same bytes give the same pixels on every machine.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
