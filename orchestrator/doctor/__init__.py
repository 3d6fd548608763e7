"""Says what would go wrong on this machine. `facts` gathers what there is to know, and `checks` judges it."""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
