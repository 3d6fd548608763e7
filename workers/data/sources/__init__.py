"""The sources of a dataset's images, classes and splits: folders, tables, shards, archives, torchvision.

A source lists images without decoding them.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
