"""Says what would go wrong on this machine, before it does.

`facts` gathers what there is to know and `checks` judges it, so each check is a pure function.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
