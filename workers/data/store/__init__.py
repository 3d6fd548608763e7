"""Packs images, decoded once, into shards that are mapped. A preparation survives a kill at any moment."""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
