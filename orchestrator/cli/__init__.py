"""The command line: one parser a verb, what each verb does, and exit codes.

Nothing here decides anything about training; every verb calls another package and prints what it returns.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
