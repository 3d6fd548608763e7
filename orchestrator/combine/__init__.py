"""The members' stored predictions: checked, streamed in blocks of rows, and combined into the ensemble's.

Its cores take and return arrays; only `predictions` and `absent` read files.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
