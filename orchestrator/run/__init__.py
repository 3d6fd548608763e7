"""The run directory: its paths, lock, record, ledger, status and the digests of what is committed.

`RunPaths` is the only place that knows where a run's files are.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
