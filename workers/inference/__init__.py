"""Predicts with a trained member: ten crops an image, averaged. It writes one file a split."""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
