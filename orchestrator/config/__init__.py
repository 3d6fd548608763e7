"""The only package that knows Hydra: it composes the configuration, checks it and suggests the nearest right name.

It returns a frozen `Config`; `schema` holds what a person may write and `members` resolves it.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
