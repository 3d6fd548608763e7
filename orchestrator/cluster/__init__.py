"""Runs members as Ray actors and shards as Ray tasks; the only package that knows Ray.

Other packages see the `Cluster` interface and plain values.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
