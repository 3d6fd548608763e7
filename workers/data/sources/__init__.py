"""Where a dataset's images, classes and splits come from: folders, tables, shards, archives, torchvision.

A source only lists; it reads no pixels.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
