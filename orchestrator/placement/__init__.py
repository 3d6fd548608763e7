"""Chooses threads, precision and how many members run at once, by measuring real steps on this machine.

The choice is made at a run's first start and kept, since it changes bits.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
