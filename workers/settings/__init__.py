"""The settings of a stage and of a dataset, as frozen values that check themselves.

They are the schema of the configuration groups, and the process that trains receives them unchanged.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
