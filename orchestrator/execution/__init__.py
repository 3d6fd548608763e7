"""Drives a plan on a cluster: which job runs next, what happens when one fails, hangs or is told to stop.

The driver is the only writer of a run's ledger and of MLflow.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
