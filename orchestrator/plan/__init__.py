"""Turns a configuration into stages with dependencies, seeds and hashes, and estimates the cost of that plan.

It is pure, so a plan does not depend on where its data and its run directory are.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
