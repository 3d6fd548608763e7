"""Makes batches: order, crops, reflections, colour from seed and epoch. Pixels stay uint8 until then."""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
