"""Shows a person what runs: live on a terminal, a line now and then elsewhere.

It reads a run's status and writes to a stream, and nothing depends on it.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
