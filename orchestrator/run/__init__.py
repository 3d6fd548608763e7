"""Owns the run directory: paths, lock, record, ledger, status, digests. `RunPaths` names its files."""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
