"""The members' stored predictions: checked, streamed in blocks of rows, and combined into the ensemble's.

Its cores take and return arrays; only `predictions` and `absent` read files.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
