"""Chooses threads, precision and how many members run at once, by measuring real steps on this machine.

The choice is made at a run's first start and kept, since it changes bits.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
