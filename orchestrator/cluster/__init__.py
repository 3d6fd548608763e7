"""The only package that knows Ray: it joins or starts one, runs members as actors and shards as tasks.

The rest of the program sees the `Cluster` interface and outcomes that are plain values.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
