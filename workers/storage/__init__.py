"""The files that later steps rely on: atomic writes, checkpoints, fences, locks and finished stages.

Every artefact is written to a temporary name, fsynced and renamed.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
