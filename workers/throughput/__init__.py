"""Times training steps for placement and plans. It runs in processes of its own, side by side."""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
