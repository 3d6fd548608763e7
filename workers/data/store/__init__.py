"""The prepared dataset: decoded once into shards that numpy can map, with statistics and a manifest.

Preparation survives a kill at any moment and never packs finished shards again.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
