"""Reports problems that a launch would meet on this machine.

`facts` gathers the facts and `checks` judges them, so each check is a pure function.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
