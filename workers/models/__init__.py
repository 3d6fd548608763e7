"""Builds nets by name, draws their weights, and counts layers and costs. Counting AlexNets loads no torch."""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
