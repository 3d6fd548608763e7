"""Runs a plan's jobs on a cluster. It tries again after failures and losses, and obeys signals and stops."""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
