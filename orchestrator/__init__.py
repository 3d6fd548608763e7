"""Septet's public face in Python: compose a configuration, plan it, launch it, and look at what came of it.

Names load on first use, so that importing this package costs nothing; `import septet` gives the same ones.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
