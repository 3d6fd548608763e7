"""Composes the configuration, checks it and suggests the nearest right name; no other package imports Hydra.

It returns a frozen `Config`: `schema` defines what a person may write, and `members` resolves the members.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
