"""The only package that knows Ray: it joins or starts one, runs members as actors and shards as tasks.

The rest of the program sees the `Cluster` interface and outcomes that are plain values.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
