"""Where a dataset's images, classes and splits come from: folders, tables, shards, archives, torchvision.

A source only lists; it reads no pixels.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
