"""Decodes an image file to RGB pixels: the supported formats, the treatment of unusual files, the errors.

The same bytes give the same pixels on every machine.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
