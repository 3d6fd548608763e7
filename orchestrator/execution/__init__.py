"""Drives a plan on a cluster: which job runs next, what happens when one fails, hangs or is told to stop.

The driver is the only writer of a run's ledger and of MLflow.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
