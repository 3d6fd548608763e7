"""Implements the command line: a parser for each verb, the verbs, and exit codes.

Each verb calls another package and prints the result; no training logic is here.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
