"""One image file to RGB pixels: which formats are read, what is decided about odd ones, what is refused.

The same bytes give the same pixels on every machine.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
