"""From a configuration to stages with dependencies, seeds and hashes, and what that plan costs.

Pure: values in, values out, so a plan is the same wherever its data or run directory lie.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
