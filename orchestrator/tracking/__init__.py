"""The only package that knows MLflow: it tells a tracking store about a run, and nobody waits for it.

`Tracker` is the interface; one thread sends what is queued and repeats what failed.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
