"""Shows a person what runs: live on a terminal, a line now and then elsewhere.

It reads a run's status and writes to a stream, and nothing depends on it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
