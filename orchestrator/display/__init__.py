"""Shows progress to a person: live on a terminal, a plain line now and then elsewhere.

It reads a run's status and writes to a stream; nothing depends on it.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
