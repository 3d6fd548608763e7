"""Scores, table, curves and pictures of a finished run, and the page that holds them.

The only package that knows matplotlib; everything it shows can be rebuilt from files on disk.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
