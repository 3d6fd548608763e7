"""The run directory: its paths, lock, record, ledger, status and the digests of what is committed.

`RunPaths` is the only place that knows where a run's files are.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
