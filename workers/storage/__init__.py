"""Everything that is written to be trusted later: atomic files, checkpoints, fences and finished stages.

Every artefact is written to a temporary name, fsynced and renamed.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
