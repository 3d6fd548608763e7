"""Measures how many images a second a stage would train, with real steps.

Placement runs it in processes side by side; plans use it for an estimate.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
