"""The command line: one parser a verb, what each verb does, and exit codes.

Nothing here decides anything about training; every verb calls another package and prints what it returns.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
