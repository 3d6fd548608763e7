"""The nets: builds them by name, draws their weights from a seed, and lists their layers and costs.

A plan needs only a net's outline, which loads torch for all nets but AlexNet.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
