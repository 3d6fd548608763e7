"""Checks a finished run against its own records, and explains one line of its submission.

Changes nothing on disk.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
