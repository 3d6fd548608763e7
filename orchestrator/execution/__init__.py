"""Runs a plan on a cluster: starts jobs, and handles those that fail, hang or must stop.

Only the driver writes a run's ledger and MLflow.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
