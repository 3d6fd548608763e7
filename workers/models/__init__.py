"""The nets: built by name, their weights drawn from a seed, and described as layers and costs.

Plans ask for a net's outline, which loads torch only for nets that torch alone can count.
"""

from workers.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
