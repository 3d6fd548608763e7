"""The nets: built by name, their weights drawn from a seed, and described as layers and costs.

Plans ask for a net's outline, which loads torch only for nets that torch alone can count.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
