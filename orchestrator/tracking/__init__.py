"""Logs a run to an MLflow store without delaying training; no other package imports MLflow.

`Tracker` takes what a launch tells it; one thread sends what is queued and repeats what failed.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
