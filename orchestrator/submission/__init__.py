"""The submission file and its manifest: written, read back and checked.

Both are replaced in one rename, so neither is ever seen without the other.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
