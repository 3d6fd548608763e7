"""Turns a configuration into stages with seeds and hashes. It is pure: values in, values out."""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
