"""Uses finished runs: predicts with them, serves, exports and compares them. It also opens them in Python."""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
